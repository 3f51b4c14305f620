package qexport.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;

/** Runs the golden prompts on this device and compares: the proof that the model computes what was exported. */
public final class GoldenReplay {
    /** How one prompt went. */
    public static final class Result {
        private final String text;
        private final String failure;
        private final double logitError;
        private final int sameTokens;
        private final int tokens;

        Result(String text, String failure, double logitError, int sameTokens, int tokens) {
            this.text = text;
            this.failure = failure;
            this.logitError = logitError;
            this.sameTokens = sameTokens;
            this.tokens = tokens;
        }

        /** The prompt. */
        public String text() {
            return text;
        }

        /** True when all lies within the tolerance. */
        public boolean passed() {
            return failure == null;
        }

        /** What went wrong; null: nothing. */
        public String failure() {
            return failure;
        }

        /** The largest difference of a logit. */
        public double logitError() {
            return logitError;
        }

        /** How many of the golden tokens were this device's likeliest, too. */
        public int sameTokens() {
            return sameTokens;
        }

        /** How many golden tokens there are. */
        public int tokens() {
            return tokens;
        }
    }

    /** Hears how far the replay is, and may end it. */
    public interface Progress {
        /** Called after each prompt; false ends the replay. */
        boolean at(int done, int all);
    }

    private GoldenReplay() {
    }

    /**
     * Replays every prompt: the tokenizer's ids must be the golden ones, the first logits lie within the tolerance,
     * and each golden token be this device's likeliest. One that is not passes when it lies within twice the
     * tolerance of the likeliest, since each of the two logits may be off by it; the replay goes on with the golden
     * one.
     *
     * @return a result for each prompt, fewer when `progress` (which may be null) ended it early
     */
    public static List<Result> run(Golden golden, Engine engine, TextModel model, Tokenizer tokenizer,
            Progress progress) throws EngineException {
        List<Result> results = new ArrayList<>();
        Chat chat = new Chat(model, tokenizer);
        float[] logits = new float[model.vocab()];
        for (Golden.Prompt prompt : golden.prompts()) {
            int[] ids = chat.encode(Collections.singletonList(new Chat.Message("user", prompt.text)));
            if (Arrays.equals(ids, prompt.inputIds)) {
                engine.reset();
                engine.feed(ids, logits);
                results.add(compare(prompt, golden.tolerance(), engine, logits));
            } else {
                results.add(new Result(prompt.text, differing(ids, prompt.inputIds), 0, 0, prompt.greedy.length));
            }
            if (progress != null && !progress.at(results.size(), golden.prompts().size())) {
                break;
            }
        }
        engine.reset();
        return results;
    }

    private static Result compare(Golden.Prompt prompt, double tolerance, Engine engine, float[] logits)
            throws EngineException {
        String failure = null;
        double worst = 0;
        for (int i = 0; i < prompt.topIds.length; i++) {
            double error = Math.abs(logits[prompt.topIds[i]] - prompt.topLogits[i]);
            worst = Double.isNaN(error) ? Double.POSITIVE_INFINITY : Math.max(worst, error);
            if (!(error <= tolerance) && failure == null) {
                failure = String.format(Locale.ROOT, "token %d has logit %.4f, golden is %.4f; at most %.4f apart",
                        prompt.topIds[i], logits[prompt.topIds[i]], prompt.topLogits[i], tolerance);
            }
        }
        int same = 0;
        for (int i = 0; i < prompt.greedy.length; i++) {
            int expected = prompt.greedy[i];
            int found = Sampler.greedy(logits);
            double behind = logits[found] - logits[expected];
            if (found == expected) {
                same++;
            } else if (!(behind <= 2 * tolerance) && failure == null) {
                failure = String.format(Locale.ROOT, "answer's token %d is %d, golden is %d, %.4f behind; at most %.4f",
                        i + 1, found, expected, behind, 2 * tolerance);
            }
            if (i + 1 < prompt.greedy.length) {
                engine.feed(new int[] {expected}, logits);
            }
        }
        return new Result(prompt.text, failure, worst, same, prompt.greedy.length);
    }

    private static String differing(int[] ids, int[] golden) {
        int at = 0;
        while (at < ids.length && at < golden.length && ids[at] == golden[at]) {
            at++;
        }
        return "the tokenizer's token " + (at + 1) + " is " + (at < ids.length ? "" + ids[at] : "none") + ", golden is "
                + (at < golden.length ? "" + golden[at] : "none");
    }
}
