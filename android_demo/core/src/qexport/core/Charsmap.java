package qexport.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * SentencePiece's table of what characters become (`precompiled_charsmap`): a double-array trie over UTF-8 whose
 * values are places among texts that end with a zero byte.
 */
final class Charsmap {
    /** Platforms differ on some of more than five bytes, which are taken apart anyway. */
    private static final Pattern GRAPHEME = Pattern.compile("\\X");
    /** Longer graphemes are replaced by single characters only, as in the original. */
    private static final int LONGEST = 5;

    private final int[] trie;
    private final byte[] texts;

    Charsmap(Fields step) throws BundleException {
        byte[] table;
        try {
            table = Base64.getDecoder().decode(step.string("precompiled_charsmap"));
        } catch (IllegalArgumentException e) {
            throw step.wrong("precompiled_charsmap", "is not base64");
        }
        ByteBuffer buffer = ByteBuffer.wrap(table).order(ByteOrder.LITTLE_ENDIAN);
        int size = table.length < 4 ? -1 : buffer.getInt();
        if (size < 4 || size % 4 != 0 || size > table.length - 4) {
            throw step.wrong("precompiled_charsmap", "says that its trie has " + size + " bytes of " + table.length);
        }
        trie = new int[size / 4];
        for (int i = 0; i < trie.length; i++) {
            trie[i] = buffer.getInt();
        }
        texts = new byte[buffer.remaining()];
        buffer.get(texts);
    }

    String apply(String text) {
        StringBuilder result = new StringBuilder();
        Matcher graphemes = GRAPHEME.matcher(text);
        while (graphemes.find()) {
            String grapheme = graphemes.group();
            byte[] bytes = grapheme.getBytes(StandardCharsets.UTF_8);
            String whole = bytes.length <= LONGEST ? replacement(bytes) : null;
            if (whole != null) {
                result.append(whole);
                continue;
            }
            for (int i = 0; i < grapheme.length();) {
                int after = grapheme.offsetByCodePoints(i, 1);
                String character = grapheme.substring(i, after);
                String other = replacement(character.getBytes(StandardCharsets.UTF_8));
                result.append(other == null ? character : other);
                i = after;
            }
        }
        return result.toString();
    }

    /** The text of the shortest beginning that the trie holds, as in the original; null: none. */
    private String replacement(byte[] key) {
        int node = offset(trie[0]);
        for (byte b : key) {
            if (b == 0) {
                return null;
            }
            node ^= b & 255;
            if (node < 0 || node >= trie.length || (trie[node] & 0x800000ff) != (b & 255)) {
                return null;
            }
            boolean leaf = (trie[node] >> 8 & 1) == 1;
            node ^= offset(trie[node]);
            if (leaf) {
                return node < trie.length ? text(trie[node] & Integer.MAX_VALUE) : null;
            }
        }
        return null;
    }

    private String text(int start) {
        int end = start;
        while (end < texts.length && texts[end] != 0) {
            end++;
        }
        return start < texts.length ? new String(texts, start, end - start, StandardCharsets.UTF_8) : null;
    }

    private static int offset(int unit) {
        return unit >>> 10 << ((unit & 1 << 9) >> 6);
    }
}
