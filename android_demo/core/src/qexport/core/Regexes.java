package qexport.core;

import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/** Patterns of tokenizer.json for Java and Android alike; characters newer than the platform's Unicode differ. */
final class Regexes {
    /** Unicode's White_Space, spelled out: what \s means differs between Java and Android. */
    private static final String SPACE =
            "\\x09-\\x0d\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";

    private Regexes() {
    }

    /** The object {"String": …} or {"Regex": …} under `key`. */
    static Pattern of(Fields step, String key) throws BundleException {
        Fields pattern = step.object(key);
        if (pattern.has("String")) {
            return Pattern.compile(Pattern.quote(pattern.string("String")));
        }
        try {
            return compile(pattern.string("Regex"));
        } catch (PatternSyntaxException e) {
            throw pattern.wrong("Regex", "is not one that Java reads: " + e.getDescription());
        }
    }

    /** \s and \S by the explicit class, ignored case by Unicode's rules. */
    static Pattern compile(String regex) {
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
        return Pattern.compile(result.toString().replace("(?i:", "(?iu:"));
    }
}
