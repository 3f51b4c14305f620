package qexport.core;

/** Steele, Lea and Flood's generator: the same numbers on every platform. */
final class SplitMix64 {
    private long state;

    SplitMix64(long seed) {
        state = seed;
    }

    long next() {
        state += 0x9e3779b97f4a7c15L;
        long z = state;
        z = (z ^ z >>> 30) * 0xbf58476d1ce4e5b9L;
        z = (z ^ z >>> 27) * 0x94d049bb133111ebL;
        return z ^ z >>> 31;
    }

    /** From 0 to below 1, in steps of 2^-53. */
    double uniform() {
        return (next() >>> 11) * 0x1p-53;
    }
}
