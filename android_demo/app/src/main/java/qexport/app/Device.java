package qexport.app;

import java.util.List;
import java.util.Map;

/** What decides whether a model runs here. */
final class Device {
    /** Processors, the first the app's own. */
    final List<String> abis;
    /** Version of each runtime that this build of the app has. */
    final Map<String, String> runtimes;
    final long available;
    final long threshold;

    Device(List<String> abis, Map<String, String> runtimes, long available, long threshold) {
        this.abis = abis;
        this.runtimes = runtimes;
        this.available = available;
        this.threshold = threshold;
    }

    /** Bytes that a model may take. */
    long free() {
        return Math.max(0, available - threshold);
    }
}
