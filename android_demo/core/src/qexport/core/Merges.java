package qexport.core;

/** (left id, right id) -> (rank, id of the two together), in plain arrays: there may be half a million. */
final class Merges {
    static final long NONE = -1;

    private final long[] keys;
    private final long[] values;

    /** For at most `count` pairs. */
    Merges(int count) {
        int size = Integer.highestOneBit(Math.max(4, count)) * 4;  // at most half full
        keys = new long[size];
        values = new long[size];
        java.util.Arrays.fill(keys, NONE);
    }

    static long pair(int high, int low) {
        return (long) high << 32 | low;
    }

    void put(int left, int right, int rank, int both) {
        long key = pair(left, right);
        int at = place(key);
        keys[at] = key;
        values[at] = pair(rank, both);
    }

    /** {@link #NONE}: the two are not merged. */
    long get(int left, int right) {
        long key = pair(left, right);
        int at = place(key);
        return keys[at] == key ? values[at] : NONE;
    }

    private int place(long key) {
        long mixed = key * 0x9e3779b97f4a7c15L;
        int at = (int) (mixed >>> 32) & keys.length - 1;
        while (keys[at] != NONE && keys[at] != key) {
            at = at + 1 & keys.length - 1;
        }
        return at;
    }
}
