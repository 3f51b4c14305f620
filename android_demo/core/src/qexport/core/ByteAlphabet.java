package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/** GPT-2's alphabet: a visible character for each byte, so that tokens can be written in JSON. */
final class ByteAlphabet {
    private static final char[] CHARS = new char[256];
    private static final Map<Character, Integer> BYTES = new HashMap<>();

    static {
        int extra = 256;
        for (int b = 0; b < 256; b++) {
            boolean visible = b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae;
            CHARS[b] = (char) (visible ? b : extra++);
            BYTES.put(CHARS[b], b);
        }
    }

    private ByteAlphabet() {
    }

    static char charOf(int b) {
        return CHARS[b];
    }

    static String text(byte[] bytes) {
        StringBuilder result = new StringBuilder();
        for (byte b : bytes) {
            result.append(CHARS[b & 255]);
        }
        return result.toString();
    }

    /** The bytes of a token; one that is not in this alphabet stands for its own UTF-8. */
    static byte[] bytes(String token) {
        byte[] result = new byte[token.length()];
        for (int i = 0; i < result.length; i++) {
            Integer b = BYTES.get(token.charAt(i));
            if (b == null) {
                return token.getBytes(StandardCharsets.UTF_8);
            }
            result[i] = b.byteValue();
        }
        return result;
    }
}
