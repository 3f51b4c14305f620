package qexport.core;

import java.io.IOException;
import java.io.InputStream;

/** The sound of a WAV file, its channels averaged: PCM of 8, 16, 24 or 32 bits, or float of 32 or 64. */
public final class Wave {
    /** All samples lie in Java's heap, of which an app has a few hundred MB. */
    static final int MOST_SECONDS = 600;

    private static final int PCM = 1;
    private static final int FLOAT = 3;
    private static final int EXTENSIBLE = 0xfffe;
    private static final String CONVERT = "; convert it to WAV, PCM with 16 bits";

    private final float[] samples;
    private final int sampleRate;

    Wave(float[] samples, int sampleRate) {
        this.samples = samples;
        this.sampleRate = sampleRate;
    }

    /** How the file says its samples. */
    private static final class Format {
        final int kind;
        final int channels;
        final int rate;
        final int bits;

        Format(byte[] chunk) throws EngineException {
            if (chunk.length < 16) {
                throw new EngineException("The WAV file's format takes " + chunk.length + " bytes, not 16 or more"
                        + CONVERT);
            }
            int named = (int) number(chunk, 0, 2);
            kind = named == EXTENSIBLE && chunk.length >= 26 ? (int) number(chunk, 24, 2) : named;
            channels = (int) number(chunk, 2, 2);
            long hertz = number(chunk, 4, 4) & 0xffffffffL;
            bits = (int) number(chunk, 14, 2);
            boolean known = kind == PCM && (bits == 8 || bits == 16 || bits == 24 || bits == 32)
                    || kind == FLOAT && (bits == 32 || bits == 64);
            if (!known) {
                throw new EngineException("The WAV file is of kind " + kind + " with " + bits
                        + " bits; this app reads PCM (1) and float (3)" + CONVERT);
            }
            if (channels < 1 || channels > 32 || hertz < 1000 || hertz > 1_000_000) {
                throw new EngineException("The WAV file has " + channels + " channels at " + hertz
                        + " Hz; this app reads 1 to 32 channels at 1000 to 1000000 Hz" + CONVERT);
            }
            rate = (int) hertz;
        }

        int bytesOfFrame() {
            return channels * (bits / 8);
        }
    }

    /**
     * Reads a file.
     *
     * @throws EngineException for what is no WAV file that this app reads, and for one that is cut off
     */
    public static Wave read(InputStream in) throws IOException, EngineException {
        byte[] head = new byte[12];
        if (fill(in, head) < 12 || !tag(head, 0).equals("RIFF") || !tag(head, 8).equals("WAVE")) {
            throw new EngineException("This is no WAV file: it does not begin with RIFF … WAVE" + CONVERT);
        }
        Format format = null;
        byte[] chunk = new byte[8];
        while (true) {
            if (fill(in, chunk) < 8) {
                throw new EngineException("The WAV file ends before its sound; copy or record it again");
            }
            long size = number(chunk, 4, 4) & 0xffffffffL;
            String name = tag(chunk, 0);
            if (name.equals("data")) {
                if (format == null) {
                    throw new EngineException("The WAV file does not say its format before its sound" + CONVERT);
                }
                return data(in, format, size);
            }
            if (name.equals("fmt ") && size <= 1024) {
                byte[] body = new byte[(int) size];
                if (fill(in, body) < size) {
                    throw new EngineException("The WAV file ends within its format; copy or record it again");
                }
                format = new Format(body);
                size = 0;
            }
            skip(in, size + (number(chunk, 4, 1) & 1));  // chunks begin at even places
        }
    }

    /** As the file has them, -1 to 1. */
    public float[] samples() {
        return samples;
    }

    /** Samples in a second. */
    public int sampleRate() {
        return sampleRate;
    }

    /** The sound at 16 kHz, which speech models hear. */
    public Wave at16k() {
        return at(16_000);
    }

    /** The sound at another rate. */
    Wave at(int rate) {
        return rate == sampleRate ? this : new Wave(Resampling.of(samples, sampleRate, rate), rate);
    }

    private static Wave data(InputStream in, Format format, long size) throws IOException, EngineException {
        int each = format.bytesOfFrame();
        long frames = size / each;
        if (frames == 0) {
            throw new EngineException("The WAV file holds no sound; record it again");
        }
        if (frames > (long) MOST_SECONDS * format.rate) {
            throw new EngineException("The WAV file is " + frames / format.rate + " seconds long, this app takes "
                    + MOST_SECONDS + "; cut it into parts");
        }
        float[] samples = new float[(int) frames];
        byte[] block = new byte[each * 4096];
        for (int done = 0; done < samples.length;) {
            int count = Math.min(4096, samples.length - done);
            if (fill(in, block, count * each) < count * each) {
                throw new EngineException("The WAV file is cut off: it says " + frames + " samples and holds fewer;"
                        + " copy or record it again");
            }
            for (int i = 0; i < count; i++) {
                samples[done++] = mean(block, i * each, format);
            }
        }
        return new Wave(samples, format.rate);
    }

    private static float mean(byte[] block, int at, Format format) throws EngineException {
        double sum = 0;
        int step = format.bits / 8;
        for (int channel = 0; channel < format.channels; channel++) {
            sum += sample(block, at + channel * step, format);
        }
        double mean = sum / format.channels;
        if (Double.isNaN(mean) || Double.isInfinite(mean)) {
            throw new EngineException("The WAV file holds samples that are no finite number; record or convert it again");
        }
        return (float) mean;
    }

    private static double sample(byte[] block, int at, Format format) {
        long raw = number(block, at, format.bits / 8);
        if (format.kind == FLOAT) {
            return format.bits == 32 ? Float.intBitsToFloat((int) raw) : Double.longBitsToDouble(raw);
        }
        if (format.bits == 8) {  // the only unsigned one, its zero at 128
            return (raw - 128) / 128.0;
        }
        int unused = 64 - format.bits;
        return (raw << unused >> unused) / (double) (1L << format.bits - 1);
    }

    private static String tag(byte[] bytes, int at) {
        return new String(bytes, at, 4, java.nio.charset.StandardCharsets.ISO_8859_1);
    }

    /** Little-endian. */
    private static long number(byte[] bytes, int at, int count) {
        long result = 0;
        for (int i = 0; i < count; i++) {
            result |= (bytes[at + i] & 255L) << 8 * i;
        }
        return result;
    }

    private static int fill(InputStream in, byte[] into) throws IOException {
        return fill(in, into, into.length);
    }

    /** How many bytes came, fewer than `count` at the end only. */
    private static int fill(InputStream in, byte[] into, int count) throws IOException {
        int done = 0;
        while (done < count) {
            int more = in.read(into, done, count - done);
            if (more < 0) {
                break;
            }
            done += more;
        }
        return done;
    }

    private static void skip(InputStream in, long count) throws IOException, EngineException {
        byte[] block = new byte[4096];
        for (long left = count; left > 0;) {
            int more = in.read(block, 0, (int) Math.min(left, block.length));
            if (more < 0) {
                throw new EngineException("The WAV file ends before its sound; copy or record it again");
            }
            left -= more;
        }
    }
}
