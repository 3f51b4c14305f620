package qexport.core;

import java.util.Arrays;
import java.util.PriorityQueue;

/** Draws tokens from logits: temperature, then top-k, then top-p, as Hugging Face's generate orders them. */
public final class Sampler {
    private final Settings settings;
    private final SplitMix64 random;

    /** Begins at the settings' seed. */
    public Sampler(Settings settings) {
        this.settings = settings;
        random = new SplitMix64(settings.seed());
    }

    /** The next token; logits that are no numbers are refused. */
    public int next(float[] logits) throws EngineException {
        int greedy = greedy(logits);
        if (settings.temperature() == 0 || settings.topK() == 1) {
            return greedy;
        }
        long[] keys = likeliest(logits, settings.topK());
        double[] weights = new double[keys.length];
        double all = 0;
        for (int i = 0; i < keys.length; i++) {
            weights[i] = Math.exp(((double) logits[id(keys[i])] - logits[greedy]) / settings.temperature());
            all += weights[i];
        }
        int kept = 0;
        double sum = 0;
        while (kept < keys.length && (kept == 0 || sum < settings.topP() * all)) {
            sum += weights[kept++];
        }
        double draw = random.uniform() * sum;
        int chosen = 0;
        for (double reached = weights[0]; reached <= draw && chosen + 1 < kept; reached += weights[chosen]) {
            chosen++;
        }
        return id(keys[chosen]);
    }

    /** The likeliest token, the first of equals. */
    public static int greedy(float[] logits) throws EngineException {
        int best = 0;
        for (int i = 0; i < logits.length; i++) {
            if (Float.isNaN(logits[i]) || logits[i] == Float.POSITIVE_INFINITY) {
                throw new EngineException("The model gave " + logits[i] + " for token " + i + " of " + logits.length
                        + ": its numbers broke down on this device; run the self-test, or use another variant");
            }
            if (logits[i] > logits[best]) {
                best = i;
            }
        }
        if (logits.length == 0 || logits[best] == Float.NEGATIVE_INFINITY) {
            throw new EngineException("The model gave no token any chance (" + logits.length
                    + " logits); run the self-test, or use another variant");
        }
        return best;
    }

    /** The `k` likeliest tokens (0: all), best first; of equals the first. */
    static long[] likeliest(float[] logits, int k) {
        int count = k == 0 ? logits.length : Math.min(k, logits.length);
        long[] keys = new long[count];
        if (count == logits.length) {
            for (int i = 0; i < count; i++) {
                keys[i] = key(logits[i], i);
            }
        } else {
            PriorityQueue<Long> best = new PriorityQueue<>(count);
            for (int i = 0; i < logits.length; i++) {
                long key = key(logits[i], i);
                if (best.size() < count) {
                    best.add(key);
                } else if (key > best.peek()) {
                    best.poll();
                    best.add(key);
                }
            }
            for (int i = 0; i < count; i++) {
                keys[i] = best.poll();
            }
        }
        Arrays.sort(keys);
        for (int i = 0, j = count - 1; i < j; i++, j--) {
            long swapped = keys[i];
            keys[i] = keys[j];
            keys[j] = swapped;
        }
        return keys;
    }

    /** Orders like the logit, then by the smaller id. */
    private static long key(float logit, int id) {
        int bits = Float.floatToIntBits(logit + 0f);  // -0 becomes 0
        bits ^= bits >> 31 & Integer.MAX_VALUE;
        return (long) bits << 32 | ~id & 0xffffffffL;
    }

    static int id(long key) {
        return ~(int) key;
    }
}
