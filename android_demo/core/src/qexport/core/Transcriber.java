package qexport.core;

import java.util.Arrays;

/** Writes down what is said, one window of sound after the other. */
public final class Transcriber {
    private static final double LOOK_BACK = 5;  // seconds before a window's end that are searched for a pause
    private static final double PAUSE = 0.1;  // seconds

    private final SpeechModel model;
    private final Tokenizer tokenizer;
    private final SpeechEngine engine;
    private final LogMel logMel;
    private final float[] logits;
    private volatile boolean cancelled;

    /** For an engine of the given model; the engine should be used through this object only. */
    public Transcriber(SpeechModel model, Tokenizer tokenizer, SpeechEngine engine) {
        this.model = model;
        this.tokenizer = tokenizer;
        this.engine = engine;
        logMel = new LogMel(model);
        logits = new float[model.vocab()];
    }

    /** Ends the transcription that is running, from any thread; does nothing to later ones. */
    public void cancel() {
        cancelled = true;
        engine.cancel();
    }

    /**
     * Transcribes sound of the model's rate (16 kHz), mono, -1 to 1. What is longer than the model hears at once
     * (30 seconds) is cut in the quietest moment of a window's last five seconds. The listener's `prefilled` tells
     * samples heard.
     */
    public Statistics transcribe(float[] pcm, Generation.Listener listener) throws EngineException {
        cancelled = false;
        if (pcm.length == 0) {
            throw new EngineException("There is no sound; choose another file or record it again");
        }
        Progress progress = new Progress(listener);
        try {
            for (int from = 0; from < pcm.length && !cancelled;) {
                int to = end(pcm, from);
                window(pcm, from, to, progress);
                from = to;
                listener.prefilled(to, pcm.length);
            }
        } catch (EngineException problem) {
            if (!cancelled) {
                throw problem;
            }
        } finally {
            engine.reset();
        }
        return progress.statistics(cancelled ? Statistics.End.CANCELLED : Statistics.End.STOP);
    }

    SpeechModel model() {
        return model;
    }

    /** Hears samples and takes the prompt: the logits of a transcript's first token. */
    float[] begin(float[] pcm, int from, int to) throws EngineException {
        engine.listen(logMel.of(pcm, from, to));
        engine.feed(model.prompt(), logits);
        forbid(model.never());
        forbid(model.neverFirst());
        return logits;
    }

    /** Takes a token: the logits of the next one. */
    float[] next(int token) throws EngineException {
        engine.feed(new int[] {token}, logits);
        forbid(model.never());
        return logits;
    }

    /** Where a window that begins at `from` ends. */
    private int end(float[] pcm, int from) {
        if (pcm.length - from <= model.samples()) {
            return pcm.length;
        }
        int part = (int) (PAUSE * model.sampleRate());
        int last = from + model.samples();
        int best = last;
        double quietest = Double.POSITIVE_INFINITY;
        for (int at = last - part; at >= last - LOOK_BACK * model.sampleRate() && at > from; at -= part / 2) {
            double energy = 0;
            for (int i = at; i < at + part; i++) {
                energy += (double) pcm[i] * pcm[i];
            }
            if (energy < quietest) {
                quietest = energy;
                best = at + part / 2;
            }
        }
        return best;
    }

    private void window(float[] pcm, int from, int to, Progress progress) throws EngineException {
        Utf8Stream utf8 = new Utf8Stream();
        int token = Sampler.greedy(begin(pcm, from, to));
        progress.heard();
        for (int room = model.context() - model.prompt().length; !isStop(token) && !cancelled; room--) {
            progress.token();
            if (isText(token)) {
                progress.say(utf8.add(tokenizer.bytesOf(token)));
            }
            if (room <= 1) {
                break;
            }
            token = Sampler.greedy(next(token));
        }
        progress.say(utf8.finish());
    }

    private void forbid(int[] ids) {
        for (int id : ids) {
            logits[id] = Float.NEGATIVE_INFINITY;
        }
    }

    private boolean isStop(int token) {
        return Arrays.stream(model.stopIds()).anyMatch(stop -> stop == token);
    }

    /** Times such as <|1.20|> are no special tokens, and no text either. */
    private boolean isText(int token) {
        byte[] bytes = tokenizer.bytesOf(token);
        boolean marked = bytes.length > 4 && bytes[0] == '<' && bytes[1] == '|' && bytes[bytes.length - 1] == '>';
        return !marked && !tokenizer.isSpecial(token);
    }

    /** What is told and counted on the way. */
    private final class Progress {
        private final Generation.Listener listener;
        private final long start = System.nanoTime();
        private long first;
        private boolean begun;
        private int windows;
        private int tokens;

        Progress(Generation.Listener listener) {
            this.listener = listener;
        }

        void heard() {
            windows++;
            if (first == 0) {
                first = System.nanoTime();
            }
        }

        void token() {
            tokens++;
        }

        /** Tokens begin with a space where a word does; the first one's is no part of the text. */
        void say(String piece) {
            int from = 0;
            while (!begun && from < piece.length() && Character.isWhitespace(piece.charAt(from))) {
                from++;
            }
            if (from < piece.length()) {
                begun = true;
                listener.text(piece.substring(from));
            }
        }

        Statistics statistics(Statistics.End end) {
            int fed = windows * model.prompt().length;
            long now = System.nanoTime();
            long heard = first == 0 ? now : first;
            return new Statistics(fed, fed, tokens, heard - start, now - heard, end);
        }
    }
}
