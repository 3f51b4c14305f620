package qexport.core;

import java.text.Normalizer;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Changes text before it is cut into words: `normalizer`. */
final class TextNormalizer {
    private interface Step {
        String apply(String text);
    }

    private final List<Step> steps = new ArrayList<>();

    /** What this app does not do is refused by its name. */
    TextNormalizer(Fields tokenizer) throws BundleException {
        if (tokenizer.has("normalizer")) {
            add(tokenizer.object("normalizer"));
        }
    }

    String apply(String text) {
        String result = text;
        for (Step step : steps) {
            result = step.apply(result);
        }
        return result;
    }

    private void add(Fields step) throws BundleException {
        String type = step.string("type");
        switch (type) {
            case "Sequence":
                for (Fields inner : step.objects("normalizers")) {
                    add(inner);
                }
                break;
            case "NFC":
            case "NFD":
            case "NFKC":
            case "NFKD":
                Normalizer.Form form = Normalizer.Form.valueOf(type);
                steps.add(text -> Normalizer.normalize(text, form));
                break;
            case "Lowercase":
                steps.add(BertText::lower);
                break;
            case "StripAccents":
                steps.add(text -> text.replaceAll("\\p{M}", ""));
                break;
            case "Strip":
                boolean left = step.bool("strip_left");
                boolean right = step.bool("strip_right");
                steps.add(text -> stripped(text, left, right));
                break;
            case "Prepend":
                String prefix = step.string("prepend");
                steps.add(text -> text.isEmpty() ? text : prefix + text);
                break;
            case "Replace":
                Pattern pattern = Regexes.of(step, "pattern");
                String content = Matcher.quoteReplacement(step.string("content"));
                steps.add(text -> pattern.matcher(text).replaceAll(content));
                break;
            case "Precompiled":
                steps.add(new Charsmap(step)::apply);
                break;
            case "BertNormalizer":
                steps.add(new BertText(step)::apply);
                break;
            default:
                throw step.wrong("type", "is " + type + "; this app has BertNormalizer, Lowercase, NFC, NFD, NFKC, "
                        + "NFKD, Precompiled, Prepend, Replace, Sequence, Strip and StripAccents");
        }
    }

    private static String stripped(String text, boolean left, boolean right) {
        int begin = 0;
        int end = text.length();
        while (left && begin < end && BertText.space(text.charAt(begin))) {
            begin++;
        }
        while (right && end > begin && BertText.space(text.charAt(end - 1))) {
            end--;
        }
        return text.substring(begin, end);
    }
}
