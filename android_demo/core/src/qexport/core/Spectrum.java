package qexport.core;

/** The power spectrum of real frames of one size: halved while it is even, the rest by the definition. */
final class Spectrum {
    private final int size;
    private final double[] cosines;
    private final double[] sines;

    Spectrum(int size) {
        this.size = size;
        cosines = new double[size];
        sines = new double[size];
        for (int i = 0; i < size; i++) {
            cosines[i] = Math.cos(2 * Math.PI * i / size);
            sines[i] = -Math.sin(2 * Math.PI * i / size);
        }
    }

    /** Of the frequencies 0 to size / 2. */
    double[] power(double[] frame) {
        double[] real = new double[size];
        double[] imaginary = new double[size];
        transform(frame, 0, 1, real, imaginary, 0, size);
        double[] power = new double[size / 2 + 1];
        for (int i = 0; i < power.length; i++) {
            power[i] = real[i] * real[i] + imaginary[i] * imaginary[i];
        }
        return power;
    }

    /** Of `count` samples from `start`, `step` apart, into the outputs from `out` on. */
    private void transform(double[] in, int start, int step, double[] real, double[] imaginary, int out, int count) {
        if (count % 2 != 0) {
            define(in, start, step, real, imaginary, out, count);
            return;
        }
        int half = count / 2;
        transform(in, start, 2 * step, real, imaginary, out, half);
        transform(in, start + step, 2 * step, real, imaginary, out + half, half);
        for (int k = 0; k < half; k++) {
            int even = out + k;
            int odd = even + half;
            double c = cosines[k * step];
            double s = sines[k * step];
            double r = real[odd] * c - imaginary[odd] * s;
            double i = real[odd] * s + imaginary[odd] * c;
            real[odd] = real[even] - r;
            imaginary[odd] = imaginary[even] - i;
            real[even] += r;
            imaginary[even] += i;
        }
    }

    private void define(double[] in, int start, int step, double[] real, double[] imaginary, int out, int count) {
        for (int k = 0; k < count; k++) {
            double r = 0;
            double i = 0;
            for (int n = 0; n < count; n++) {
                int turn = n * k % count * step;
                r += in[start + n * step] * cosines[turn];
                i += in[start + n * step] * sines[turn];
            }
            real[out + k] = r;
            imaginary[out + k] = i;
        }
    }
}
