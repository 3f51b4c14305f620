package qexport.core;

import java.nio.charset.StandardCharsets;
import java.text.Normalizer;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * WordPiece with BERT's normalizer and words: the longest known beginning of a word, then of its rest. The original's
 * tables of marks and punctuation end with Unicode 8; characters that are newer are classed as the platform knows them.
 */
final class WordPiece implements Tokenizer {
    private static final byte[] NOTHING = {};

    private final AddedTokens added;
    private final Map<String, Integer> vocab = new HashMap<>();
    private final Map<Integer, String> tokens = new HashMap<>();
    private final String prefix;
    private final int unknown;
    private final int longest;
    private final boolean clean;
    private final boolean chinese;
    private final boolean lowercase;
    private final boolean strip;
    private final Ids before = new Ids();
    private final Ids after = new Ids();

    WordPiece(Fields tokenizer) throws BundleException {
        Fields normalizer = part(tokenizer, "normalizer", "BertNormalizer");
        part(tokenizer, "pre_tokenizer", "BertPreTokenizer");
        clean = normalizer.bool("clean_text");
        chinese = normalizer.bool("handle_chinese_chars");
        lowercase = normalizer.bool("lowercase");
        strip = normalizer.has("strip_accents") ? normalizer.bool("strip_accents") : lowercase;
        added = new AddedTokens(tokenizer, true);
        Fields model = tokenizer.object("model");
        prefix = model.string("continuing_subword_prefix");
        longest = model.integer("max_input_chars_per_word", 1, 1 << 20);
        for (Map.Entry<?, ?> entry : model.object("vocab").map().entrySet()) {
            if (!(entry.getValue() instanceof Long) || (Long) entry.getValue() >> 24 != 0) {
                throw model.wrong("vocab", "gives " + entry.getKey() + " the id " + entry.getValue());
            }
            int id = ((Long) entry.getValue()).intValue();
            vocab.put((String) entry.getKey(), id);
            tokens.put(id, (String) entry.getKey());
        }
        Integer id = vocab.get(model.string("unk_token"));
        if (id == null) {
            throw model.wrong("unk_token", "is " + model.string("unk_token") + ", which is not in the vocabulary");
        }
        unknown = id;
        readTemplate(tokenizer);
    }

    private static Fields part(Fields tokenizer, String key, String type) throws BundleException {
        if (!tokenizer.has(key)) {
            throw tokenizer.wrong(key, "is null; with WordPiece this app needs " + type);
        }
        Fields part = tokenizer.object(key);
        if (!part.string("type").equals(type)) {
            throw part.wrong("type", "is " + part.string("type") + "; with WordPiece this app has " + type);
        }
        return part;
    }

    private void readTemplate(Fields tokenizer) throws BundleException {
        if (!tokenizer.has("post_processor")) {
            return;
        }
        Fields template = part(tokenizer, "post_processor", "TemplateProcessing");
        Ids side = before;
        for (Fields piece : template.objects("single")) {
            if (piece.has("Sequence")) {
                side = after;
            } else {
                String name = piece.object("SpecialToken").string("id");
                side.addAll(template.object("special_tokens").object(name).integers("ids", 0, 1 << 24));
            }
        }
    }

    @Override
    public int[] encode(String text) {
        return encode(text, null);
    }

    @Override
    public int[] encode(String text, BitSet plain) {
        Ids ids = new Ids();
        ids.addAll(before.toArray());
        List<AddedTokens.Part> parts = added.split(Ids.wellFormed(text), plain);
        for (AddedTokens.Part part : parts) {
            if (part.id >= 0) {
                ids.add(part.id);
            } else {
                words(normalized(part.text), ids);
            }
        }
        ids.addAll(after.toArray());
        return ids.toArray();
    }

    @Override
    public byte[] bytesOf(int id) {
        byte[] special = added.bytesOf(id);
        if (special != null) {
            return special;
        }
        String token = tokens.get(id);
        if (token == null) {
            return NOTHING;
        }
        String text = token.startsWith(prefix) ? token.substring(prefix.length()) : " " + token;
        return text.getBytes(StandardCharsets.UTF_8);
    }

    @Override
    public boolean isSpecial(int id) {
        return added.isSpecial(id);
    }

    private String normalized(String text) {
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
    private static String lower(String text) {
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

    private void words(String text, Ids ids) {
        int begin = 0;
        int i = 0;
        while (i < text.length()) {
            int c = text.codePointAt(i);
            int after = i + Character.charCount(c);
            if (space(c) || punctuation(c)) {
                word(text.substring(begin, i), ids);
                if (!space(c)) {
                    word(text.substring(i, after), ids);
                }
                begin = after;
            }
            i = after;
        }
        word(text.substring(begin), ids);
    }

    private void word(String word, Ids ids) {
        if (word.isEmpty()) {
            return;
        }
        Ids pieces = new Ids();
        int start = word.codePointCount(0, word.length()) > longest ? -1 : 0;
        while (start >= 0 && start < word.length()) {
            int end = word.length();
            Integer id = null;
            while (end > start && (id = vocab.get((start > 0 ? prefix : "") + word.substring(start, end))) == null) {
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

    private static boolean control(int c) {
        if (c == '\t' || c == '\n' || c == '\r') {
            return false;
        }
        int type = Character.getType(c);
        return type == Character.CONTROL || type == Character.FORMAT || type == Character.PRIVATE_USE;
    }

    /** Unicode's White_Space. */
    private static boolean space(int c) {
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
