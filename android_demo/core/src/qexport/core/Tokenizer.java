package qexport.core;

import java.util.BitSet;

/** Text to token ids and back. */
public interface Tokenizer {
    /**
     * The ids of a whole input, with those of the tokenizer's template around them ([CLS] … [SEP]); added tokens,
     * such as those of chat formats, are recognised in it.
     */
    int[] encode(String text);

    /**
     * The same, at most `most` ids: of a longer text the last tokens are left out, those of the template never, as the
     * tokenizers library truncates.
     */
    int[] encode(String text, int most);

    /**
     * The ids of `text` alone, without a template: for what a chat format is written around. No character in `plain`
     * (null: none) is ever part of a special token: for what a person typed.
     */
    int[] encode(String text, BitSet plain);

    /** The bytes that `id` stands for, which may be part of a character; none for an id it does not know. */
    byte[] bytesOf(int id);

    /** True for tokens that are not text, such as the end of a message. */
    boolean isSpecial(int id);
}
