package qexport.core;

/**
 * Sound at another rate by a polyphase filter, as scipy.signal.resample_poly does it: a sinc of ten zero crossings to
 * each side under a Kaiser window of 5, which holds aliases under -54 dB.
 */
final class Resampling {
    private static final double BETA = 5;
    private static final int CROSSINGS = 10;

    private Resampling() {
    }

    static float[] of(float[] samples, int from, int to) {
        int divisor = divisor(from, to);
        int up = to / divisor;
        int down = from / divisor;
        int half = CROSSINGS * Math.max(up, down);
        double[] filter = filter(half, up, Math.max(up, down));
        int length = (int) (((long) samples.length * up + down - 1) / down);
        float[] result = new float[length];
        for (int m = 0; m < length; m++) {
            long centre = (long) m * down;  // in steps of 1 / up of a sample
            long first = Math.max(0, Math.floorDiv(centre - half + up - 1, (long) up));
            long last = Math.min(samples.length - 1, Math.floorDiv(centre + half, (long) up));
            double sum = 0;
            for (long n = first; n <= last; n++) {
                sum += samples[(int) n] * filter[(int) (centre - n * up + half)];
            }
            result[m] = (float) sum;
        }
        return result;
    }

    private static double[] filter(int half, int up, int slower) {
        double[] filter = new double[2 * half + 1];
        double sum = 0;
        for (int i = 0; i < filter.length; i++) {
            double x = (double) (i - half) / slower;
            double place = (double) (i - half) / half;
            double sinc = x == 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
            filter[i] = sinc * bessel(BETA * Math.sqrt(1 - place * place));
            sum += filter[i];
        }
        for (int i = 0; i < filter.length; i++) {
            filter[i] *= up / sum;
        }
        return filter;
    }

    /** The modified Bessel function of the first kind and order 0. */
    private static double bessel(double x) {
        double term = 1;
        double sum = 1;
        for (int k = 1; term > 1e-17 * sum; k++) {
            term *= x * x / (4.0 * k * k);
            sum += term;
        }
        return sum;
    }

    private static int divisor(int a, int b) {
        return b == 0 ? a : divisor(b, a % b);
    }
}
