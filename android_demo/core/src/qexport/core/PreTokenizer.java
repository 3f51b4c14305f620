package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Cuts text into the words that the model sees one by one: `pre_tokenizer`. */
final class PreTokenizer {
    private static final String GPT2 =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

    /** Cuts one word into finer ones; `first`: it begins the text. */
    private interface Step {
        void split(String word, boolean first, List<String> finer);
    }

    private final List<Step> steps = new ArrayList<>();
    private boolean byteLevel;

    /** What this app does not do is refused by its name. */
    PreTokenizer(Fields tokenizer) throws BundleException {
        if (tokenizer.has("pre_tokenizer")) {
            add(tokenizer.object("pre_tokenizer"));
        }
    }

    /** True when words are written in {@link ByteAlphabet}. */
    boolean byteLevel() {
        return byteLevel;
    }

    /** The words of `text`, in order; `first`: the text begins with it. */
    List<String> split(String text, boolean first) {
        List<String> words = Collections.singletonList(text);
        for (Step step : steps) {
            List<String> finer = new ArrayList<>();
            for (int i = 0; i < words.size(); i++) {
                step.split(words.get(i), first && i == 0, finer);
            }
            words = finer;
        }
        return words;
    }

    private void add(Fields step) throws BundleException {
        String type = step.string("type");
        switch (type) {
            case "Sequence":
                for (Fields inner : step.objects("pretokenizers")) {
                    add(inner);
                }
                break;
            case "ByteLevel":
                addByteLevel(step);
                break;
            case "Digits":
                boolean each = step.bool("individual_digits");
                addSplit(Pattern.compile(each ? "\\p{N}" : "\\p{N}+"), Behavior.ISOLATED, false);
                break;
            case "Split":
                addSplit(Regexes.of(step, "pattern"), Behavior.of(step), step.bool("invert"));
                break;
            case "Metaspace":
                addMetaspace(step);
                break;
            case "WhitespaceSplit":
                addSplit(Regexes.compile("\\s"), Behavior.REMOVED, false);
                break;
            case "BertPreTokenizer":
                steps.add((word, first, finer) -> BertText.words(word, finer));
                break;
            default:
                throw step.wrong("type", "is " + type + "; this app has BertPreTokenizer, ByteLevel, Digits, "
                        + "Metaspace, Sequence, Split and WhitespaceSplit");
        }
    }

    private void addByteLevel(Fields step) throws BundleException {
        if (byteLevel) {
            throw step.wrong("type", "is ByteLevel a second time, which this app does not do");
        }
        byteLevel = true;
        if (step.bool("add_prefix_space")) {
            steps.add((word, first, finer) -> finer.add(word.startsWith(" ") ? word : " " + word));
        }
        if (!step.has("use_regex") || step.bool("use_regex")) {
            addSplit(Regexes.compile(GPT2), Behavior.ISOLATED, false);
        }
        steps.add((word, first, finer) -> finer.add(ByteAlphabet.text(word.getBytes(StandardCharsets.UTF_8))));
    }

    private void addMetaspace(Fields step) throws BundleException {
        String mark = step.string("replacement");
        boolean old = step.has("add_prefix_space") && !step.bool("add_prefix_space");
        String scheme = step.has("prepend_scheme") ? step.string("prepend_scheme") : old ? "never" : "always";
        if (!scheme.equals("always") && !scheme.equals("first") && !scheme.equals("never")) {
            throw step.wrong("prepend_scheme", "is " + scheme + "; this app has always, first and never");
        }
        steps.add((word, first, finer) -> {
            String marked = word.replace(" ", mark);
            boolean wanted = scheme.equals("always") || scheme.equals("first") && first;
            finer.add(wanted && !marked.startsWith(mark) ? mark + marked : marked);
        });
        if (!step.has("split") || step.bool("split")) {
            addSplit(Pattern.compile(Pattern.quote(mark)), Behavior.MERGED_WITH_NEXT, false);
        }
    }

    private void addSplit(Pattern pattern, Behavior behavior, boolean invert) {
        steps.add((word, first, finer) -> split(pattern, behavior, invert, word, finer));
    }

    /** What becomes of a pattern's matches. */
    private enum Behavior {
        REMOVED, ISOLATED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT;

        static Behavior of(Fields step) throws BundleException {
            String name = step.string("behavior");
            for (Behavior behavior : values()) {
                if (behavior.name().replace("_", "").equalsIgnoreCase(name)) {
                    return behavior;
                }
            }
            throw step.wrong("behavior", "is " + name + "; this app has Removed, Isolated, Contiguous, "
                    + "MergedWithPrevious and MergedWithNext");
        }
    }

    private static void split(Pattern pattern, Behavior behavior, boolean invert, String text, List<String> finer) {
        List<int[]> parts = new ArrayList<>();  // begin, end, 1 for a match
        Matcher matcher = pattern.matcher(text);
        int end = 0;
        while (matcher.find()) {
            if (matcher.end() == matcher.start()) {
                continue;
            }
            if (matcher.start() > end) {
                parts.add(new int[] {end, matcher.start(), invert ? 1 : 0});
            }
            parts.add(new int[] {matcher.start(), matcher.end(), invert ? 0 : 1});
            end = matcher.end();
        }
        if (end < text.length()) {
            parts.add(new int[] {end, text.length(), invert ? 1 : 0});
        }
        for (int[] part : joined(parts, behavior)) {
            if (behavior != Behavior.REMOVED || part[2] == 0) {
                finer.add(text.substring(part[0], part[1]));
            }
        }
    }

    private static List<int[]> joined(List<int[]> parts, Behavior behavior) {
        if (behavior == Behavior.REMOVED || behavior == Behavior.ISOLATED) {
            return parts;
        }
        boolean backwards = behavior == Behavior.MERGED_WITH_NEXT;
        if (backwards) {
            Collections.reverse(parts);
        }
        List<int[]> result = new ArrayList<>();
        int before = behavior == Behavior.CONTIGUOUS ? -1 : 0;  // whether the part before was a match
        for (int[] part : parts) {
            boolean join = behavior == Behavior.CONTIGUOUS ? part[2] == before : part[2] == 1 && before == 0;
            before = part[2];
            if (!join || result.isEmpty()) {
                result.add(part);
            } else if (backwards) {
                result.get(result.size() - 1)[0] = part[0];
            } else {
                result.get(result.size() - 1)[1] = part[1];
            }
        }
        if (backwards) {
            Collections.reverse(result);
        }
        return result;
    }
}
