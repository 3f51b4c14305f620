package qexport.core;

/** How an answer is drawn: checked when built, then unchangeable. */
public final class Settings {
    private final float temperature;
    private final int topK;
    private final float topP;
    private final long seed;
    private final int maxNewTokens;

    /**
     * Checks each value.
     *
     * @param temperature 0 (always the likeliest token) to 5
     * @param topK only the so many likeliest tokens; 0: all
     * @param topP only the likeliest tokens that reach this probability together, above 0 to 1 (all)
     * @param seed the same seed draws the same answer
     * @param maxNewTokens most tokens of an answer, from 1
     * @throws IllegalArgumentException with a message for a person
     */
    public Settings(float temperature, int topK, float topP, long seed, int maxNewTokens) {
        if (!(temperature >= 0 && temperature <= 5)) {
            throw new IllegalArgumentException("Temperature is " + temperature + "; choose 0 (greedy) to 5");
        }
        if (topK < 0) {
            throw new IllegalArgumentException("Top-k is " + topK + "; choose 0 (off) or more");
        }
        if (!(topP > 0 && topP <= 1)) {
            throw new IllegalArgumentException("Top-p is " + topP + "; choose more than 0, at most 1 (off)");
        }
        if (maxNewTokens < 1) {
            throw new IllegalArgumentException("Most new tokens is " + maxNewTokens + "; choose 1 or more");
        }
        this.temperature = temperature;
        this.topK = topK;
        this.topP = topP;
        this.seed = seed;
        this.maxNewTokens = maxNewTokens;
    }

    /** Always the likeliest token. */
    public static Settings greedy(int maxNewTokens) {
        return new Settings(0, 0, 1, 0, maxNewTokens);
    }

    /** What logits are divided by; 0: always the likeliest token. */
    public float temperature() {
        return temperature;
    }

    /** Only the so many likeliest tokens; 0: all. */
    public int topK() {
        return topK;
    }

    /** Only the likeliest tokens that reach this probability together; 1: all. */
    public float topP() {
        return topP;
    }

    /** The same seed draws the same answer. */
    public long seed() {
        return seed;
    }

    /** Most tokens of an answer. */
    public int maxNewTokens() {
        return maxNewTokens;
    }
}
