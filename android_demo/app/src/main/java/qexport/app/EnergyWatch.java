package qexport.app;

import qexport.core.EnergyPolicy;

/** Asks again from time to time while a model works, and says when it has to end. */
final class EnergyWatch {
    /** What reads the device. */
    interface Source {
        EnergyPolicy.Decision decide();
    }

    private static final long EVERY_NANOS = 3_000_000_000L;

    private final Source source;
    private long next;
    private EnergyPolicy.Decision decision;

    EnergyWatch(Source source) {
        this.source = source;
    }

    /** The decision of the last few seconds. */
    EnergyPolicy.Decision at(long nanos) {
        if (decision == null || nanos - next >= 0) {
            decision = source.decide();
            next = nanos + EVERY_NANOS;
        }
        return decision;
    }
}
