package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;

/** Tokens and their ids. */
final class Vocab {
    private final Map<String, Integer> ids = new HashMap<>();
    private String[] tokens = new String[256];

    void add(String token, int id) {
        ids.put(token, id);
        if (id >= tokens.length) {
            tokens = Arrays.copyOf(tokens, Math.max(id + 1, 2 * tokens.length));
        }
        tokens[id] = token;
    }

    /** Reads the object `vocab`. */
    static Vocab of(Fields model) throws BundleException {
        Vocab vocab = new Vocab();
        for (Map.Entry<?, ?> entry : model.object("vocab").map().entrySet()) {
            if (!(entry.getValue() instanceof Long) || (Long) entry.getValue() >> 24 != 0) {
                throw model.wrong("vocab", "gives " + entry.getKey() + " the id " + entry.getValue());
            }
            vocab.add((String) entry.getKey(), ((Long) entry.getValue()).intValue());
        }
        return vocab;
    }

    /** Null: not in it. */
    Integer id(String token) {
        return ids.get(token);
    }

    /** Null: not in it. */
    String token(int id) {
        return id >= 0 && id < tokens.length ? tokens[id] : null;
    }

    /** The id of the token that the key names. */
    int named(Fields model, String key) throws BundleException {
        Integer id = ids.get(model.string(key));
        if (id == null) {
            throw model.wrong(key, "is " + model.string(key) + ", which is not in the vocabulary");
        }
        return id;
    }

    /** The ids of the 256 tokens of bytes; null: one is missing. */
    int[] bytes() {
        int[] result = new int[256];
        for (int b = 0; b < 256; b++) {
            Integer id = ids.get(byteToken(b));
            if (id == null) {
                return null;
            }
            result[b] = id;
        }
        return result;
    }

    /** SentencePiece's spelling: ▁ is a space and, with `byteFallback`, &lt;0x0A&gt; a byte. */
    static byte[] piece(String token, boolean byteFallback) {
        if (byteFallback && token.length() == 6 && token.startsWith("<0x") && token.endsWith(">")) {
            int high = Character.digit(token.charAt(3), 16);
            int low = Character.digit(token.charAt(4), 16);
            if (high >= 0 && low >= 0) {
                return new byte[] {(byte) (high * 16 + low)};
            }
        }
        return token.replace('\u2581', ' ').getBytes(StandardCharsets.UTF_8);
    }

    private static String byteToken(int b) {
        return String.format(Locale.ROOT, "<0x%02X>", b);
    }
}
