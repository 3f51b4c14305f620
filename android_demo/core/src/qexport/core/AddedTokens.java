package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The tokens that are taken out of a text before the model of the tokenizer sees it. */
final class AddedTokens {
    /** A part of the text: an added token (its id), or text between them (id -1). */
    static final class Part {
        final String text;
        final int id;
        final int start;

        Part(String text, int id, int start) {
            this.text = text;
            this.id = id;
            this.start = start;
        }
    }

    private static final class Token {
        final String content;
        final int id;
        final boolean special;

        Token(String content, int id, boolean special) {
            this.content = content;
            this.id = id;
            this.special = special;
        }
    }

    private final Map<Integer, Token> byId = new HashMap<>();
    private final Map<Character, List<Token>> plain = new HashMap<>();
    private final Map<Character, List<Token>> normalized = new HashMap<>();

    /** Reads `added_tokens`; `normalizer`: whether the tokenizer changes text before it splits it. */
    AddedTokens(Fields tokenizer, boolean normalizer) throws BundleException {
        if (!tokenizer.has("added_tokens")) {
            return;
        }
        for (Fields token : tokenizer.objects("added_tokens")) {
            for (String flag : new String[] {"single_word", "lstrip", "rstrip"}) {
                if (token.has(flag) && token.bool(flag)) {
                    throw token.wrong(flag, "is true, which this app does not do");
                }
            }
            boolean late = token.has("normalized") && token.bool("normalized");
            String content = token.string("content");
            if (content.isEmpty()) {
                continue;
            }
            if (late && normalizer) {
                throw token.wrong("normalized", "is true beside a normalizer, which this app does not do");
            }
            Token added = new Token(content, token.integer("id", 0, 1 << 24), token.bool("special"));
            byId.put(added.id, added);
            Map<Character, List<Token>> byFirst = late ? normalized : plain;
            List<Token> same = byFirst.get(content.charAt(0));
            if (same == null) {
                same = new ArrayList<>();
                byFirst.put(content.charAt(0), same);
            }
            same.add(added);
        }
    }

    boolean isSpecial(int id) {
        Token token = byId.get(id);
        return token != null && token.special;
    }

    /** The token's own text in UTF-8; null: not an added token. */
    byte[] bytesOf(int id) {
        Token token = byId.get(id);
        return token == null ? null : token.content.getBytes(StandardCharsets.UTF_8);
    }

    /** Splits the text: first by the tokens that are looked for in it as it is, then by the others. */
    List<Part> split(String text, BitSet typed) {
        List<Part> result = new ArrayList<>();
        for (Part part : split(new Part(text, -1, 0), plain, typed)) {
            if (part.id >= 0) {
                result.add(part);
            } else {
                result.addAll(split(part, normalized, typed));
            }
        }
        return result;
    }

    private static List<Part> split(Part whole, Map<Character, List<Token>> tokens, BitSet typed) {
        List<Part> result = new ArrayList<>();
        String text = whole.text;
        int begin = 0;
        for (int at = 0; at < text.length();) {
            Token found = longest(text, at, tokens.get(text.charAt(at)), whole.start, typed);
            if (found == null) {
                at++;
                continue;
            }
            if (at > begin) {
                result.add(new Part(text.substring(begin, at), -1, whole.start + begin));
            }
            result.add(new Part(found.content, found.id, whole.start + at));
            at += found.content.length();
            begin = at;
        }
        if (begin < text.length()) {
            result.add(new Part(text.substring(begin), -1, whole.start + begin));
        }
        return result;
    }

    private static Token longest(String text, int at, List<Token> tokens, int start, BitSet typed) {
        Token best = null;
        if (tokens != null) {
            for (Token token : tokens) {
                int length = token.content.length();
                boolean longer = best == null || length > best.content.length();
                boolean allowed = !token.special || !touches(typed, start + at, length);
                if (longer && allowed && text.startsWith(token.content, at)) {
                    best = token;
                }
            }
        }
        return best;
    }

    private static boolean touches(BitSet typed, int from, int length) {
        int next = typed == null ? -1 : typed.nextSetBit(from);
        return next >= 0 && next < from + length;
    }
}
