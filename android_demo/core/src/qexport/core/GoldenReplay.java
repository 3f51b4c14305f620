package qexport.core;

import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;

/** Runs the golden prompts, texts or clips on this device and compares: the proof that the model computes what was exported. */
public final class GoldenReplay {
    /** How one prompt went. */
    public static final class Result {
        private final String text;
        private final String failure;
        private final double logitError;
        private final double cosine;
        private final int sameTokens;
        private final int tokens;

        Result(String text, String failure, double logitError, int sameTokens, int tokens) {
            this(text, failure, logitError, Double.NaN, sameTokens, tokens);
        }

        Result(String text, String failure, double logitError, double cosine, int sameTokens, int tokens) {
            this.text = text;
            this.failure = failure;
            this.logitError = logitError;
            this.cosine = cosine;
            this.sameTokens = sameTokens;
            this.tokens = tokens;
        }

        /** The prompt, the text, or the clip's name. */
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

        /** What was measured, in a few words. */
        public String measured() {
            if (!Double.isNaN(cosine)) {
                return String.format(Locale.ROOT, "cosine %.5f", cosine);
            }
            String logits = String.format(Locale.ROOT, "largest difference of a logit %.3f", logitError);
            return tokens == 0 ? logits : sameTokens + " of " + tokens + " tokens, " + logits;
        }

        /** The largest difference of a logit; 0 where vectors are compared. */
        public double logitError() {
            return logitError;
        }

        /** Of a vector and its golden one; NaN where logits are compared. */
        public double cosine() {
            return cosine;
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
                results.add(compare(prompt, golden.tolerance(), logits,
                        (token, into) -> engine.feed(new int[] {token}, into)));
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

    /** Replays every text: the ids must be the golden ones, the vector's cosine or the logits within the tolerance. */
    public static List<Result> run(Golden golden, EncoderTask task, Progress progress) throws EngineException {
        List<Result> results = new ArrayList<>();
        for (Golden.Example example : golden.examples()) {
            int[] ids = task.ids(example.text);
            results.add(Arrays.equals(ids, example.inputIds) ? compare(example, golden, task.run(ids))
                    : new Result(example.text, differing(ids, example.inputIds), 0, 0, 0));
            if (progress != null && !progress.at(results.size(), golden.size())) {
                break;
            }
        }
        return results;
    }

    /**
     * Replays every clip from its WAV file on: the first logits must lie within the tolerance, and each golden token be
     * this device's likeliest, or within twice the tolerance of it.
     *
     * @param files of the bundle's folder
     */
    public static List<Result> run(Golden golden, Transcriber transcriber, Files files, Progress progress)
            throws IOException, EngineException {
        List<Result> results = new ArrayList<>();
        for (Golden.Prompt clip : golden.prompts()) {
            float[] pcm;
            try (InputStream in = files.open(clip.file)) {
                pcm = Wave.read(in).at(transcriber.model().sampleRate()).samples();
            }
            float[] logits = transcriber.begin(pcm, 0, Math.min(pcm.length, transcriber.model().samples()));
            results.add(compare(clip, golden.tolerance(), logits, (token, into) -> transcriber.next(token)));
            if (progress != null && !progress.at(results.size(), golden.size())) {
                break;
            }
        }
        return results;
    }

    /** Takes a token and gives the next one's logits. */
    private interface Step {
        void take(int token, float[] logits) throws EngineException;
    }

    private static Result compare(Golden.Example example, Golden golden, float[] found) throws EngineException {
        if (example.vector == null) {
            double[] worst = new double[1];
            String failure = apart(example.topIds, example.topLogits, golden.tolerance(), found, "label", worst);
            return new Result(example.text, failure, worst[0], 0, 0);
        }
        if (found.length != example.vector.length) {
            throw new EngineException("The golden vector has " + example.vector.length + " numbers, the model gives "
                    + found.length + "; write the folder again with `qexport bundle`");
        }
        double cosine = Search.cosine(found, example.vector);
        String failure = cosine >= golden.cosine() ? null
                : String.format(Locale.ROOT, "the vector's cosine with the golden one is %.5f; at least %.5f", cosine,
                        golden.cosine());
        return new Result(example.text, failure, 0, cosine, 0, 0);
    }

    /** What lies too far from its golden value; null: nothing. The largest difference into `worst`. */
    private static String apart(int[] ids, double[] golden, double tolerance, float[] logits, String name,
            double[] worst) {
        String failure = null;
        for (int i = 0; i < ids.length; i++) {
            double found = ids[i] < logits.length ? logits[ids[i]] : Double.NaN;
            double error = Math.abs(found - golden[i]);
            worst[0] = Double.isNaN(error) ? Double.POSITIVE_INFINITY : Math.max(worst[0], error);
            if (!(error <= tolerance) && failure == null) {
                failure = String.format(Locale.ROOT, "%s %d has logit %.4f, golden is %.4f; at most %.4f apart", name,
                        ids[i], found, golden[i], tolerance);
            }
        }
        return failure;
    }

    private static Result compare(Golden.Prompt prompt, double tolerance, float[] logits, Step step)
            throws EngineException {
        double[] worst = new double[1];
        String failure = apart(prompt.topIds, prompt.topLogits, tolerance, logits, "token", worst);
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
                step.take(expected, logits);
            }
        }
        return new Result(prompt.text, failure, worst[0], same, prompt.greedy.length);
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
