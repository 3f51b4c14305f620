package qexport.app;

import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.LongSupplier;
import qexport.core.EngineException;
import qexport.core.Generation;
import qexport.core.Statistics;
import qexport.core.Wave;

/** Transcription of a WAV file with the loaded speech model. */
final class SpeechWork {
    /** A file to read. */
    interface Source {
        InputStream open() throws IOException;
    }

    /** What the page shows. */
    static final class Snapshot {
        static final Snapshot NONE = new Snapshot(null, false, "", 0, 0, null, 0, null);

        /** Key of the model that worked; null: none yet. */
        final Object key;
        final boolean running;
        final String text;
        /** Seconds of sound written down, and all of them; 0 while the file is read. */
        final double heard;
        final double all;
        /** Null until the end. */
        final Statistics statistics;
        /** Kilobytes of memory at the end. */
        final long memory;
        final String problem;

        Snapshot(Object key, boolean running, String text, double heard, double all, Statistics statistics,
                long memory, String problem) {
            this.key = key;
            this.running = running;
            this.text = text;
            this.heard = heard;
            this.all = all;
            this.statistics = statistics;
            this.memory = memory;
            this.problem = problem;
        }
    }

    final State<Snapshot> state;
    private final Worker worker;
    private final EnergyWatch.Source energy;
    private final LongSupplier memory;
    /** Holds null when none runs or waits, since a job holds the model. */
    private final AtomicReference<Work> work = new AtomicReference<>();

    /** `memory`: kilobytes that the process holds. */
    SpeechWork(Worker worker, Executor main, EnergyWatch.Source energy, LongSupplier memory) {
        this.worker = worker;
        this.energy = energy;
        this.memory = memory;
        state = new State<>(main, Snapshot.NONE);
    }

    /** Writes the file's sound down. */
    void start(Model model, Source source) {
        Work next = new Work(model, source);
        work.set(next);
        state.set(new Snapshot(model.key, true, "", 0, 0, null, 0, null));
        worker.run(next);
    }

    /** Ends it; what was written stays. */
    void stop() {
        Work running = work.get();
        if (running != null) {
            running.stop();
        }
    }

    private final class Work extends ModelJob implements Generation.Listener {
        private final Source source;
        private final StringBuilder text = new StringBuilder();
        private final double rate;
        private double heard;
        private double all;

        Work(Model model, Source source) {
            super(model, energy);
            this.source = source;
            rate = model.bundle.speech().sampleRate();
        }

        @Override
        void cancel() {
            model.transcriber.cancel();
        }

        @Override
        public void run() {
            Statistics statistics = null;
            String problem = null;
            try (InputStream in = new BufferedInputStream(source.open(), 1 << 16)) {
                float[] samples = Wave.read(in).at16k().samples();
                all = samples.length / rate;
                show();
                if (mayGoOn()) {
                    statistics = model.transcriber.transcribe(samples, this);
                }
                problem = reason;
            } catch (EngineException | IOException | RuntimeException | VirtualMachineError | LinkageError e) {
                problem = Failures.sentence(e);
            }
            work.compareAndSet(this, null);
            state.set(new Snapshot(model.key, false, text.toString(), heard, all, statistics, memory.getAsLong(),
                    problem));
        }

        @Override
        public void prefilled(int done, int of) {
            heard = done / rate;
            mayGoOn();
            show();
        }

        @Override
        public void text(String piece) {
            text.append(piece);
            mayGoOn();
            show();
        }

        private void show() {
            state.set(new Snapshot(model.key, true, text.toString(), heard, all, null, 0, null));
        }
    }
}
