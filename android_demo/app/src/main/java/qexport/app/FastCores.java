package qexport.app;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;

/** How many of the processor's cores are not of its slowest kind: threads on slow cores hold the fast ones up. */
final class FastCores {
    private FastCores() {
    }

    /**
     * Counts.
     *
     * @param cpus the folder that has cpu0, cpu1, … with the highest frequency of each
     * @param otherwise the number of cores, for a device that does not tell
     */
    static int count(File cpus, int otherwise) {
        long slowest = Long.MAX_VALUE;
        long fastest = 0;
        long[] frequencies = new long[256];
        int cores = 0;
        while (cores < frequencies.length && new File(cpus, "cpu" + cores).isDirectory()) {
            long frequency = frequency(new File(cpus, "cpu" + cores + "/cpufreq/cpuinfo_max_freq"));
            if (frequency < 0) {
                return otherwise;
            }
            slowest = Math.min(slowest, frequency);
            fastest = Math.max(fastest, frequency);
            frequencies[cores++] = frequency;
        }
        if (cores == 0 || slowest == fastest) {
            return otherwise;
        }
        int fast = 0;
        for (int i = 0; i < cores; i++) {
            fast += frequencies[i] > slowest ? 1 : 0;
        }
        return fast;
    }

    private static long frequency(File file) {
        try (InputStream in = new FileInputStream(file)) {
            return Long.parseLong(new String(Streams.all(in, 100), StandardCharsets.US_ASCII).trim());
        } catch (IOException | NumberFormatException e) {
            return -1;
        }
    }
}
