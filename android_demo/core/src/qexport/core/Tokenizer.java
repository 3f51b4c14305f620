package qexport.core;

import java.util.BitSet;

/** Text to token ids and back. */
public interface Tokenizer {
    /** The ids of `text`; added tokens, such as those of chat formats, are recognised in it. */
    int[] encode(String text);

    /** The same, but no character in `plain` is ever part of a special token: for what a person typed. */
    int[] encode(String text, BitSet plain);

    /** The bytes that `id` stands for, which may be part of a character; none for an id it does not know. */
    byte[] bytesOf(int id);

    /** True for tokens that are not text, such as the end of a message. */
    boolean isSpecial(int id);
}
