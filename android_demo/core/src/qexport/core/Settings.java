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

    /**
     * Reads what a person typed, in digits of any script and with a point or a comma.
     *
     * @throws IllegalArgumentException with a message for a person: which field, its text, what it may be
     */
    public static Settings parse(String temperature, String topK, String topP, String seed, String maxNewTokens) {
        return new Settings(real("Temperature", temperature, "0.7"), whole("Top-k", topK, "40"),
                real("Top-p", topP, "0.9"), number("Seed", seed, "1"), whole("Most new tokens", maxNewTokens, "256"));
    }

    private static float real(String field, String text, String example) {
        String plain = plain(field, text, example).replace(',', '.').replace('\u066b', '.');
        if (!plain.matches("-?([0-9]+\\.?[0-9]*|\\.[0-9]+)")) {
            throw new IllegalArgumentException(field + " is \"" + text + "\", not a number; write one like " + example);
        }
        return Float.parseFloat(plain);
    }

    private static int whole(String field, String text, String example) {
        long number = number(field, text, example);
        if (number != (int) number) {
            throw new IllegalArgumentException(field + " is " + number + ", at most " + Integer.MAX_VALUE
                    + "; write one like " + example);
        }
        return (int) number;
    }

    private static long number(String field, String text, String example) {
        try {
            return Long.parseLong(plain(field, text, example));
        } catch (NumberFormatException e) {
            throw new IllegalArgumentException(
                    field + " is \"" + text + "\", not a whole number; write one like " + example, e);
        }
    }

    /** Without space around it, in ASCII's digits. */
    private static String plain(String field, String text, String example) {
        StringBuilder plain = new StringBuilder();
        for (char c : text.trim().toCharArray()) {
            plain.append(Character.isDigit(c) ? (char) ('0' + Character.digit(c, 10)) : c);
        }
        if (plain.length() == 0) {
            throw new IllegalArgumentException(field + " is empty; write a number like " + example);
        }
        return plain.toString();
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
