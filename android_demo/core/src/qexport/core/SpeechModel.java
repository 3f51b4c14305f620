package qexport.core;

/** What a speech bundle says of its model. */
public final class SpeechModel {
    private static final int MOST = 1 << 24;

    private final String tokenizer;
    private final String encoder;
    private final String decoder;
    private final String input;
    private final int sampleRate;
    private final int samples;
    private final int fftSize;
    private final int hop;
    private final int bins;
    private final double highestHz;
    private final double floor;
    private final double range;
    private final int[] prompt;
    private final int[] never;
    private final int[] neverFirst;
    private final int[] stopIds;
    private final int context;
    private final int vocab;
    private final int layers;
    private final int heads;
    private final int headSize;

    private SpeechModel(Fields speech) throws BundleException {
        tokenizer = speech.string("tokenizer");
        encoder = speech.string("encoder");
        decoder = speech.string("decoder");
        Fields mel = speech.object("mel");
        input = mel.string("input");
        sampleRate = mel.integer("sampling_rate", 1000, 1_000_000);
        fftSize = mel.integer("n_fft", 2, 1 << 16);
        hop = mel.integer("hop", 1, fftSize);
        samples = mel.integer("samples", fftSize, MOST);
        if (fftSize % 2 != 0 || samples % hop != 0) {
            throw mel.wrong("n_fft", "is " + fftSize + ", hop " + hop + ", samples " + samples
                    + "; an even window and whole frames are needed");
        }
        bins = mel.integer("bins", 1, 1024);
        highestHz = mel.real("highest_hz");
        floor = mel.real("floor");
        range = mel.real("range");
        if (!(highestHz > 0 && highestHz <= sampleRate / 2.0 && floor > 0 && range > 0)) {
            throw mel.wrong("highest_hz", "is " + highestHz + ", floor " + floor + ", range " + range
                    + "; each must be more than 0, and the first at most half the sampling rate");
        }
        context = speech.integer("context", 1, MOST);
        vocab = speech.integer("vocab", 1, MOST);
        prompt = speech.integers("prompt", 0, vocab - 1);
        never = speech.integers("never", 0, vocab - 1);
        neverFirst = speech.integers("never_first", 0, vocab - 1);
        stopIds = speech.integers("stop_ids", 0, vocab - 1);
        if (prompt.length == 0 || prompt.length >= context) {
            throw speech.wrong("prompt", "holds " + prompt.length + " tokens, not 1 to " + (context - 1));
        }
        layers = speech.integer("layers", 1, 10_000);
        heads = speech.integer("heads", 1, 10_000);
        headSize = speech.integer("head_size", 1, 100_000);
    }

    static SpeechModel of(Fields speech) throws BundleException {
        return new SpeechModel(speech);
    }

    /** The tokenizer's file. */
    public String tokenizer() {
        return tokenizer;
    }

    /** The file that hears. */
    public String encoder() {
        return encoder;
    }

    /** The file that writes. */
    public String decoder() {
        return decoder;
    }

    /** The encoder's input. */
    public String input() {
        return input;
    }

    /** Samples of sound in a second. */
    public int sampleRate() {
        return sampleRate;
    }

    /** Samples that the model hears at once; what is shorter is followed by silence. */
    public int samples() {
        return samples;
    }

    /** Samples in a window of the spectrum. */
    public int fftSize() {
        return fftSize;
    }

    /** Samples from one window to the next. */
    public int hop() {
        return hop;
    }

    /** Mel bands. */
    public int bins() {
        return bins;
    }

    /** Windows: columns of the features. */
    public int frames() {
        return samples / hop;
    }

    /** Where the last mel band ends; the first begins at 0. */
    public double highestHz() {
        return highestHz;
    }

    /** The least power before the logarithm. */
    public double floor() {
        return floor;
    }

    /** Decades below the loudest that are kept. */
    public double range() {
        return range;
    }

    /** What every transcript begins with. */
    public int[] prompt() {
        return prompt.clone();
    }

    /** Tokens that are never written. */
    public int[] never() {
        return never.clone();
    }

    /** Tokens that are not written first. */
    public int[] neverFirst() {
        return neverFirst.clone();
    }

    /** Tokens that end a transcript. */
    public int[] stopIds() {
        return stopIds.clone();
    }

    /** Most tokens of prompt and transcript together. */
    public int context() {
        return context;
    }

    /** How many logits there are. */
    public int vocab() {
        return vocab;
    }

    /** Layers of the decoder. */
    public int layers() {
        return layers;
    }

    /** Heads of each layer. */
    public int heads() {
        return heads;
    }

    /** Numbers in each head. */
    public int headSize() {
        return headSize;
    }
}
