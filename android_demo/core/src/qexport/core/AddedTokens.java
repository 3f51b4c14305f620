package qexport.core;

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
        /** What is looked for: the content, normalized if the text is. */
        final String sought;
        final int id;
        final boolean special;
        final boolean singleWord;
        final boolean stripLeft;
        final boolean stripRight;

        Token(Fields token, String content, String sought) throws BundleException {
            this.content = content;
            this.sought = sought;
            id = token.integer("id", 0, 1 << 24);
            special = token.bool("special");
            singleWord = flag(token, "single_word");
            stripLeft = flag(token, "lstrip");
            stripRight = flag(token, "rstrip");
        }
    }

    private final TextNormalizer normalizer;
    private final Map<Integer, Token> byId = new HashMap<>();
    private final Map<Character, List<Token>> plain = new HashMap<>();
    private final Map<Character, List<Token>> normalized = new HashMap<>();

    /** Reads `added_tokens`, and normalizes what lies between them. */
    AddedTokens(Fields tokenizer, TextNormalizer normalizer) throws BundleException {
        this.normalizer = normalizer;
        if (!tokenizer.has("added_tokens")) {
            return;
        }
        for (Fields token : tokenizer.objects("added_tokens")) {
            boolean late = flag(token, "normalized");
            String content = token.string("content");
            Token added = new Token(token, content, late ? normalizer.apply(content) : content);
            if (added.sought.isEmpty()) {
                continue;
            }
            byId.put(added.id, added);
            Map<Character, List<Token>> byFirst = late ? normalized : plain;
            List<Token> same = byFirst.get(added.sought.charAt(0));
            if (same == null) {
                same = new ArrayList<>();
                byFirst.put(added.sought.charAt(0), same);
            }
            same.add(added);
        }
    }

    private static boolean flag(Fields token, String key) throws BundleException {
        return token.has(key) && token.bool(key);
    }

    boolean isSpecial(int id) {
        Token token = byId.get(id);
        return token != null && token.special;
    }

    /** The token's own text; null: not an added token. */
    String contentOf(int id) {
        Token token = byId.get(id);
        return token == null ? null : token.content;
    }

    /**
     * Splits the text: first by the tokens that are looked for in it as it is; what is between them is normalized and
     * split by the others. `typed`: the characters of the text that are not to be part of a special token.
     */
    List<Part> split(String text, BitSet typed) {
        List<Part> result = new ArrayList<>();
        for (Part part : split(new Part(text, -1, 0), plain, typed)) {
            if (part.id >= 0) {
                result.add(part);
                continue;
            }
            String changed = normalizer.apply(part.text);
            if (changed.equals(part.text)) {
                result.addAll(split(part, normalized, typed));
                continue;
            }
            String first = part.text.substring(0, part.text.offsetByCodePoints(0, 1));
            // as in the original, what remains when the first character vanishes does not begin the text
            int start = part.start + (normalizer.apply(first).isEmpty() ? 1 : 0);
            result.addAll(split(new Part(changed, -1, start), normalized, all(typed, part, start + changed.length())));
        }
        return result;
    }

    /** Places in changed text are not those of the original: one typed character makes all of the part typed. */
    private static BitSet all(BitSet typed, Part part, int end) {
        if (!touches(typed, part.start, part.text.length())) {
            return null;
        }
        BitSet result = new BitSet();
        result.set(part.start, end);
        return result;
    }

    private static List<Part> split(Part whole, Map<Character, List<Token>> tokens, BitSet typed) {
        List<Part> result = new ArrayList<>();
        String text = whole.text;
        int begin = 0;
        for (int at = 0; at < text.length();) {
            Token found = longest(text, at, tokens.get(text.charAt(at)), whole.start, typed);
            int end = found == null ? at + 1 : at + found.sought.length();
            if (found == null || found.singleWord && !alone(text, at, end)) {
                at = end;
                continue;
            }
            int start = at;
            while (found.stripLeft && start > begin && BertText.space(text.charAt(start - 1))) {
                start--;
            }
            while (found.stripRight && end < text.length() && BertText.space(text.charAt(end))) {
                end++;
            }
            if (start > begin) {
                result.add(new Part(text.substring(begin, start), -1, whole.start + begin));
            }
            result.add(new Part(found.content, found.id, whole.start + start));
            at = end;
            begin = end;
        }
        if (begin < text.length()) {
            result.add(new Part(text.substring(begin), -1, whole.start + begin));
        }
        return result;
    }

    private static boolean alone(String text, int start, int end) {
        return (start == 0 || !ofWord(text.codePointBefore(start)))
                && (end == text.length() || !ofWord(text.codePointAt(end)));
    }

    private static boolean ofWord(int c) {
        int type = Character.getType(c);
        boolean mark = type == Character.NON_SPACING_MARK || type == Character.ENCLOSING_MARK
                || type == Character.COMBINING_SPACING_MARK;
        return Character.isLetterOrDigit(c) || mark || type == Character.CONNECTOR_PUNCTUATION;
    }

    private static Token longest(String text, int at, List<Token> tokens, int start, BitSet typed) {
        Token best = null;
        if (tokens != null) {
            for (Token token : tokens) {
                int length = token.sought.length();
                boolean longer = best == null || length > best.sought.length();
                boolean allowed = !token.special || !touches(typed, start + at, length);
                if (longer && allowed && text.startsWith(token.sought, at)) {
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
