package qexport.core;

/** What one answer took. */
public final class Statistics {
    /** Why an answer ended. */
    public enum End {
        /** The model ended it. */
        STOP(null),
        /** It reached the settings' most new tokens. */
        LENGTH("The answer reached the settings' most new tokens; raise them for longer answers"),
        /** The model's context is full. */
        CONTEXT("The model holds no more tokens; begin a new conversation"),
        /** It was cancelled. */
        CANCELLED("The answer was stopped");

        private final String reason;

        End(String reason) {
            this.reason = reason;
        }

        /** Why the answer may be unfinished, for a person; null: it is not. */
        public String reason() {
            return reason;
        }
    }

    private final int promptTokens;
    private final int fedTokens;
    private final int newTokens;
    private final long prefillNanos;
    private final long decodeNanos;
    private final End end;

    Statistics(int promptTokens, int fedTokens, int newTokens, long prefillNanos, long decodeNanos, End end) {
        this.promptTokens = promptTokens;
        this.fedTokens = fedTokens;
        this.newTokens = newTokens;
        this.prefillNanos = prefillNanos;
        this.decodeNanos = decodeNanos;
        this.end = end;
    }

    /** Tokens of the prompt. */
    public int promptTokens() {
        return promptTokens;
    }

    /** Those of them that the engine did not hold already. */
    public int fedTokens() {
        return fedTokens;
    }

    /** Tokens of the answer, without the one that ends it. */
    public int newTokens() {
        return newTokens;
    }

    /** Time to the first token. */
    public long prefillNanos() {
        return prefillNanos;
    }

    /** Time from the first token to the end. */
    public long decodeNanos() {
        return decodeNanos;
    }

    /** Why it ended. */
    public End end() {
        return end;
    }

    /** Tokens of the prompt in a second; 0 when there is nothing to measure. */
    public double prefillRate() {
        return rate(fedTokens, prefillNanos);
    }

    /** Tokens of the answer in a second, the first left out; 0 when there is nothing to measure. */
    public double decodeRate() {
        return rate(newTokens - 1, decodeNanos);
    }

    private static double rate(int tokens, long nanos) {
        return tokens > 0 && nanos > 0 ? tokens * 1e9 / nanos : 0;
    }
}
