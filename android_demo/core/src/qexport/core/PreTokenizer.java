package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/** Cuts text into the words that merges stay inside of: each match of a pattern, and what is between matches. */
final class PreTokenizer {
    /** Unicode's White_Space, spelled out: what \s means differs between Java and Android. */
    private static final String SPACE =
            "\\x09-\\x0d\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
    private static final String GPT2 =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

    private final List<Pattern> patterns = new ArrayList<>();
    private boolean prefixSpace;
    private boolean byteLevel;

    /** Reads `pre_tokenizer`; what this app does not do is refused by its name. */
    PreTokenizer(Fields tokenizer) throws BundleException {
        if (!tokenizer.has("pre_tokenizer")) {
            throw tokenizer.wrong("pre_tokenizer", "is null; with BPE this app needs ByteLevel");
        }
        Fields whole = tokenizer.object("pre_tokenizer");
        boolean several = whole.string("type").equals("Sequence");
        List<Fields> steps = several ? whole.objects("pretokenizers") : Collections.singletonList(whole);
        for (Fields step : steps) {
            if (byteLevel) {
                throw step.wrong("type", "is " + step.string("type") + " after ByteLevel, which this app does not do");
            }
            add(step);
        }
        if (!byteLevel) {
            throw whole.wrong("type", "is " + whole.string("type") + " without ByteLevel, which this app does not do");
        }
    }

    private void add(Fields step) throws BundleException {
        String type = step.string("type");
        switch (type) {
            case "ByteLevel":
                byteLevel = true;
                prefixSpace = step.bool("add_prefix_space");
                if (prefixSpace && !patterns.isEmpty()) {
                    throw step.wrong("add_prefix_space", "is true after other steps, which this app does not do");
                }
                if (!step.has("use_regex") || step.bool("use_regex")) {
                    patterns.add(Pattern.compile(translate(GPT2)));
                }
                break;
            case "Digits":
                patterns.add(Pattern.compile(step.bool("individual_digits") ? "\\p{N}" : "\\p{N}+"));
                break;
            case "Split":
                patterns.add(split(step));
                break;
            default:
                throw step.wrong("type", "is " + type + "; this app has ByteLevel, Digits, Split and Sequence");
        }
    }

    private static Pattern split(Fields step) throws BundleException {
        String behavior = step.string("behavior");
        if (!behavior.equals("Isolated") || step.bool("invert")) {
            throw step.wrong("behavior", "is " + behavior + (step.bool("invert") ? ", inverted" : "")
                    + "; this app has Isolated");
        }
        Fields pattern = step.object("pattern");
        if (pattern.has("String")) {
            return Pattern.compile(Pattern.quote(pattern.string("String")));
        }
        try {
            return Pattern.compile(translate(pattern.string("Regex")));
        } catch (PatternSyntaxException e) {
            throw pattern.wrong("Regex", "is not one that Java reads: " + e.getDescription());
        }
    }

    /** \s and \S by the explicit class, ignored case by Unicode's rules. */
    static String translate(String regex) {
        StringBuilder result = new StringBuilder();
        boolean inClass = false;
        for (int i = 0; i < regex.length(); i++) {
            char c = regex.charAt(i);
            char next = i + 1 < regex.length() ? regex.charAt(i + 1) : 0;
            if (c == '\\') {
                i++;
                if (next == 's') {
                    result.append(inClass ? SPACE : "[" + SPACE + "]");
                } else if (next == 'S') {
                    result.append("[^" + SPACE + "]");  // in a class, too: Java joins nested ones
                } else {
                    result.append(c).append(next);
                }
                continue;
            }
            inClass = c == '[' || inClass && c != ']';
            result.append(c);
        }
        return result.toString().replace("(?i:", "(?iu:");
    }

    /** The words of `text`, in order; together they are the text. */
    List<String> split(String text) {
        boolean prefix = prefixSpace && !text.startsWith(" ");
        List<String> words = Collections.singletonList(prefix ? " " + text : text);
        for (Pattern pattern : patterns) {
            List<String> finer = new ArrayList<>();
            for (String word : words) {
                split(pattern, word, finer);
            }
            words = finer;
        }
        return words;
    }

    private static void split(Pattern pattern, String text, List<String> result) {
        Matcher matcher = pattern.matcher(text);
        int end = 0;
        while (matcher.find()) {
            if (matcher.end() == matcher.start()) {
                continue;
            }
            if (matcher.start() > end) {
                result.add(text.substring(end, matcher.start()));
            }
            result.add(matcher.group());
            end = matcher.end();
        }
        if (end < text.length()) {
            result.add(text.substring(end));
        }
    }
}
