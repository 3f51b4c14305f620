package qexport.core;

import java.util.Arrays;

/** Sound to the features that a speech model hears: window, power spectrum, mel bands, logarithm. */
public final class LogMel {
    private static final double STEP = Math.log(6.4) / 27;  // of Slaney's mel scale, above 1000 Hz

    private final SpeechModel model;
    private final double[] window;
    private final Spectrum spectrum;
    private final int[] first;  // the first frequency of each band
    private final double[][] weights;  // and the band's weights from there on

    /** For the model's own settings. */
    public LogMel(SpeechModel model) {
        this.model = model;
        int size = model.fftSize();
        spectrum = new Spectrum(size);
        window = new double[size];
        for (int i = 0; i < size; i++) {
            window[i] = 0.5 - 0.5 * Math.cos(2 * Math.PI * i / size);  // Hann, periodic
        }
        first = new int[model.bins()];
        weights = new double[model.bins()][];
        for (int band = 0; band < weights.length; band++) {
            addBand(band);
        }
    }

    /**
     * Features of the samples from `from` to `to`, which the model must hear at once, followed by silence:
     * bins × frames, a band's frames side by side.
     */
    public float[] of(float[] pcm, int from, int to) throws EngineException {
        if (to - from > model.samples()) {
            throw new IllegalArgumentException(to - from + " samples, the model hears " + model.samples());
        }
        for (int i = from; i < to; i++) {
            if (Float.isNaN(pcm[i]) || Float.isInfinite(pcm[i])) {
                throw new EngineException("Sample " + i + " of the sound is " + pcm[i]
                        + ", which is no finite number; record or convert it again");
            }
        }
        int frames = model.frames();
        float[] result = new float[model.bins() * frames];
        double[] logs = new double[result.length];
        double[] frame = new double[model.fftSize()];
        double loudest = Double.NEGATIVE_INFINITY;
        for (int at = 0; at < frames; at++) {
            boolean silent = !cut(pcm, from, to, at, frame);
            double[] power = silent ? null : spectrum.power(frame);
            for (int band = 0; band < model.bins(); band++) {
                double log = Math.log10(Math.max(silent ? 0 : weighted(band, power), model.floor()));
                logs[band * frames + at] = log;
                loudest = Math.max(loudest, log);
            }
        }
        for (int i = 0; i < result.length; i++) {
            result[i] = (float) ((Math.max(logs[i], loudest - model.range()) + 4) / 4);
        }
        return result;
    }

    /** One windowed frame, centred; before the beginning and behind the end the sound is mirrored. False: all 0. */
    private boolean cut(float[] pcm, int from, int to, int at, double[] frame) {
        int start = at * model.hop() - frame.length / 2;
        if (start > to - from && start + frame.length < model.samples()) {
            return false;
        }
        boolean any = false;
        for (int i = 0; i < frame.length; i++) {
            int place = Math.abs(start + i);
            if (place >= model.samples()) {
                place = 2 * (model.samples() - 1) - place;
            }
            frame[i] = place < to - from ? pcm[from + place] * window[i] : 0;
            any |= frame[i] != 0;
        }
        return any;
    }

    private double weighted(int band, double[] power) {
        double sum = 0;
        for (int i = 0; i < weights[band].length; i++) {
            sum += weights[band][i] * power[first[band] + i];
        }
        return sum;
    }

    /** A triangle over three neighbouring points of the mel scale, of area 1 (Slaney's). */
    private void addBand(int band) {
        double low = edge(band);
        double middle = edge(band + 1);
        double high = edge(band + 2);
        double[] all = new double[model.fftSize() / 2 + 1];
        int begin = -1;
        int end = 0;
        for (int i = 0; i < all.length; i++) {
            double hertz = (double) i * model.sampleRate() / model.fftSize();
            double height = Math.min((hertz - low) / (middle - low), (high - hertz) / (high - middle));
            if (height > 0) {
                all[i] = height * 2 / (high - low);
                begin = begin < 0 ? i : begin;
                end = i + 1;
            }
        }
        first[band] = Math.max(0, begin);
        weights[band] = Arrays.copyOfRange(all, first[band], Math.max(first[band], end));
    }

    /** The points lie evenly on the mel scale. */
    private double edge(int point) {
        return hertz(mel(model.highestHz()) * point / (model.bins() + 1));
    }

    private static double mel(double hertz) {
        return hertz < 1000 ? 3 * hertz / 200 : 15 + Math.log(hertz / 1000) / STEP;
    }

    private static double hertz(double mel) {
        return mel < 15 ? 200 * mel / 3 : 1000 * Math.exp(STEP * (mel - 15));
    }
}
