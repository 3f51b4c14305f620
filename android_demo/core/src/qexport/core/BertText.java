package qexport.core;

import java.text.Normalizer;
import java.util.List;
import java.util.Locale;

/**
 * BERT's normalizer and words. The original's tables of marks and punctuation end with Unicode 8; characters that are
 * newer are classed as the platform knows them.
 */
final class BertText {
    private final boolean clean;
    private final boolean chinese;
    private final boolean lowercase;
    private final boolean strip;

    /** Of a BertNormalizer. */
    BertText(Fields normalizer) throws BundleException {
        clean = normalizer.bool("clean_text");
        chinese = normalizer.bool("handle_chinese_chars");
        lowercase = normalizer.bool("lowercase");
        strip = normalizer.has("strip_accents") ? normalizer.bool("strip_accents") : lowercase;
    }

    String apply(String text) {
        StringBuilder result = new StringBuilder();
        for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
            int c = text.codePointAt(i);
            if (clean && (c == 0 || c == 0xfffd || control(c))) {
                continue;
            }
            if (clean && space(c)) {
                result.append(' ');
            } else if (chinese && ideograph(c)) {
                result.append(' ').appendCodePoint(c).append(' ');
            } else {
                result.appendCodePoint(c);
            }
        }
        String done = strip ? unaccented(result.toString()) : result.toString();
        return lowercase ? lower(done) : done;
    }

    private static String unaccented(String text) {
        String apart = Normalizer.normalize(text, Normalizer.Form.NFD);
        StringBuilder result = new StringBuilder();
        for (int i = 0; i < apart.length(); i += Character.charCount(apart.codePointAt(i))) {
            int c = apart.codePointAt(i);
            if (Character.getType(c) != Character.NON_SPACING_MARK) {
                result.appendCodePoint(c);
            }
        }
        return result.toString();
    }

    /** Each character by itself: a whole word's rules (a last sigma) are not the original's. */
    static String lower(String text) {
        StringBuilder result = new StringBuilder();
        for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
            int c = text.codePointAt(i);
            if (c < 128) {
                result.append((char) Character.toLowerCase(c));
            } else {
                result.append(new String(Character.toChars(c)).toLowerCase(Locale.ROOT));
            }
        }
        return result.toString();
    }

    /** Words without the white space between them; each mark of punctuation is one of its own. */
    static void words(String text, List<String> result) {
        int begin = 0;
        int i = 0;
        while (i < text.length()) {
            int c = text.codePointAt(i);
            int after = i + Character.charCount(c);
            if (space(c) || punctuation(c)) {
                if (i > begin) {
                    result.add(text.substring(begin, i));
                }
                if (!space(c)) {
                    result.add(text.substring(i, after));
                }
                begin = after;
            }
            i = after;
        }
        if (i > begin) {
            result.add(text.substring(begin));
        }
    }

    private static boolean control(int c) {
        if (c == '\t' || c == '\n' || c == '\r') {
            return false;
        }
        int type = Character.getType(c);
        return type == Character.CONTROL || type == Character.FORMAT || type == Character.PRIVATE_USE;
    }

    /** Unicode's White_Space. */
    static boolean space(int c) {
        return c >= 9 && c <= 13 || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || c >= 0x2000 && c <= 0x200a
                || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
    }

    private static boolean ideograph(int c) {
        return c >= 0x4e00 && c <= 0x9fff || c >= 0x3400 && c <= 0x4dbf || c >= 0x20000 && c <= 0x2a6df
                || c >= 0x2a700 && c <= 0x2b73f || c >= 0x2b740 && c <= 0x2b81f || c >= 0x2b920 && c <= 0x2ceaf
                || c >= 0xf900 && c <= 0xfaff || c >= 0x2f800 && c <= 0x2fa1f;
    }

    private static boolean punctuation(int c) {
        if (c < 128) {
            return c > ' ' && c < 127 && !Character.isLetterOrDigit(c);
        }
        switch (Character.getType(c)) {
            case Character.CONNECTOR_PUNCTUATION:
            case Character.DASH_PUNCTUATION:
            case Character.START_PUNCTUATION:
            case Character.END_PUNCTUATION:
            case Character.INITIAL_QUOTE_PUNCTUATION:
            case Character.FINAL_QUOTE_PUNCTUATION:
            case Character.OTHER_PUNCTUATION:
                return true;
            default:
                return false;
        }
    }
}
