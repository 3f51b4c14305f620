package qexport.core;

/** Decides before a model is loaded whether it fits: a process that takes too much is ended without a message. */
public final class MemoryGate {
    private static final long MIB = 1 << 20;

    private MemoryGate() {
    }

    /** Bytes that the model takes with a full context of so many tokens. */
    public static long needed(Bundle bundle, int context) {
        return bundle.loadBytes() + bundle.kvBytesPerToken() * context;
    }

    /**
     * Why the bundle does not fit; null: it does.
     *
     * @param context tokens of context that are to be held
     * @param available bytes that the system has free (ActivityManager.MemoryInfo.availMem)
     * @param threshold bytes free at which the system begins to end processes (MemoryInfo.threshold)
     */
    public static String whyNot(Bundle bundle, int context, long available, long threshold) {
        long needed = needed(bundle, context);
        long free = Math.max(0, available - threshold);
        if (needed <= free) {
            return null;
        }
        long forContext = free - bundle.loadBytes();
        long fits = forContext <= 0 || bundle.kvBytesPerToken() == 0 ? 0 : forContext / bundle.kvBytesPerToken();
        String way = fits >= 64 ? "choose a context of at most " + fits + " tokens, " : "";
        return bundle.title() + " needs " + (needed + MIB - 1) / MIB + " MiB"
                + (bundle.text() == null ? "" : " with a context of " + context + " tokens") + ", " + free / MIB + " MiB are free; " + way + "close other apps or choose a smaller variant";
    }
}
