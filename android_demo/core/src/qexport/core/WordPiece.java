package qexport.core;

import java.nio.charset.StandardCharsets;

/** WordPiece: the longest known beginning of a word, then of its rest. */
final class WordPiece implements WordModel {
    private final Vocab vocab;
    private final String prefix;
    private final int unknown;
    private final int longest;

    WordPiece(Fields model) throws BundleException {
        vocab = Vocab.of(model);
        prefix = model.string("continuing_subword_prefix");
        longest = model.integer("max_input_chars_per_word", 1, 1 << 20);
        unknown = vocab.named(model, "unk_token");
    }

    @Override
    public void encode(String word, Ids ids) {
        Ids pieces = new Ids();
        int start = word.codePointCount(0, word.length()) > longest ? -1 : 0;
        while (start >= 0 && start < word.length()) {
            int end = word.length();
            Integer id = null;
            while (end > start && (id = vocab.id((start > 0 ? prefix : "") + word.substring(start, end))) == null) {
                end = word.offsetByCodePoints(end, -1);
            }
            if (id != null) {
                pieces.add(id);
            }
            start = id == null ? -1 : end;
        }
        if (start < 0) {
            ids.add(unknown);
        } else {
            ids.addAll(pieces.toArray());
        }
    }

    @Override
    public String token(int id) {
        return vocab.token(id);
    }

    @Override
    public byte[] bytes(String token) {
        String text = token.startsWith(prefix) ? token.substring(prefix.length()) : " " + token;
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
