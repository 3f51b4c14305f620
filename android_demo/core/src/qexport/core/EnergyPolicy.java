package qexport.core;

/** How hard the app may work: fewer threads and pauses when the device is hot or its battery low. */
public final class EnergyPolicy {
    /** What to do now. */
    public static final class Decision {
        private final boolean run;
        private final int threads;
        private final int pauseMillis;
        private final int mostRank;
        private final String reason;

        Decision(boolean run, int threads, int pauseMillis, int mostRank, String reason) {
            this.run = run;
            this.threads = threads;
            this.pauseMillis = pauseMillis;
            this.mostRank = mostRank;
            this.reason = reason;
        }

        /** False: do not begin, and end what runs. */
        public boolean run() {
            return run;
        }

        /** Threads for the engine, from 1. */
        public int threads() {
            return threads;
        }

        /** Pause after each token, for {@link Generation#pause}. */
        public int pauseMillis() {
            return pauseMillis;
        }

        /** The largest variant to load next, for {@link VariantChoice#fitting}; what is loaded stays. */
        public int mostRank() {
            return mostRank;
        }

        /** Why it is less than everything, for a person; null: it is not. */
        public String reason() {
            return reason;
        }
    }

    private static final int LIGHT = 1;
    private static final int MODERATE = 2;
    private static final int SEVERE = 3;
    private static final int SMALLEST = 0;
    private static final int MOST_THREADS = 4;

    private EnergyPolicy() {
    }

    /**
     * Decides from what the system reports.
     *
     * @param thermal PowerManager's thermal status: 0 (none), 1 (light), 2 (moderate), 3 (severe) to 6 (shutdown)
     * @param battery per cent, 0 to 100; -1: not known
     * @param charging whether the device is plugged in
     * @param powerSave whether the person chose to save power
     * @param cores the processor's fast cores
     */
    public static Decision decide(int thermal, int battery, boolean charging, boolean powerSave, int cores) {
        int most = most(cores);
        int half = Math.max(1, most / 2);
        if (thermal >= SEVERE) {
            return new Decision(false, 1, 0, SMALLEST, "The device is too hot; let it cool down");
        }
        if (!charging && battery >= 0 && battery < 5) {
            return new Decision(false, 1, 0, SMALLEST, "The battery is at " + battery + " %; plug the device in");
        }
        if (thermal == MODERATE) {
            return new Decision(true, half, 50, SMALLEST, "The device is warm; answers come more slowly");
        }
        if (powerSave && !charging) {
            return new Decision(true, half, 0, SMALLEST, "The device saves power; answers come more slowly");
        }
        if (!charging && battery >= 0 && battery < 15) {
            return new Decision(true, half, 0, SMALLEST, "The battery is at " + battery + " %; answers come more slowly");
        }
        if (thermal == LIGHT) {
            return new Decision(true, Math.max(half, most - 1), 0, VariantChoice.ANY_RANK,
                    "The device is getting warm; one thread rests");
        }
        return off(cores);
    }

    /** For a person who switched the policy off: everything, whatever the system reports. */
    public static Decision off(int cores) {
        return new Decision(true, most(cores), 0, VariantChoice.ANY_RANK, null);
    }

    private static int most(int cores) {
        return Math.max(1, Math.min(MOST_THREADS, cores));
    }
}
