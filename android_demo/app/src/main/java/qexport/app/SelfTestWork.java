package qexport.app;

import java.io.IOException;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.LongSupplier;
import qexport.core.Bundle;
import qexport.core.BundleException;
import qexport.core.EngineException;
import qexport.core.Golden;
import qexport.core.GoldenReplay;
import qexport.core.GoldenReport;

/** The golden replay of the loaded model. */
final class SelfTestWork {
    /** What the page shows. */
    static final class Snapshot {
        static final Snapshot NONE = new Snapshot(null, false, 0, 0, null, null);

        /** Key of the model that is or was tested; null: none yet. */
        final Object key;
        final boolean running;
        final int done;
        final int all;
        /** To read and to share; null: not yet. */
        final String report;
        /** Why there is no report; null: no problem. */
        final String problem;

        Snapshot(Object key, boolean running, int done, int all, String report, String problem) {
            this.key = key;
            this.running = running;
            this.done = done;
            this.all = all;
            this.report = report;
            this.problem = problem;
        }
    }

    final State<Snapshot> state;
    private final Worker worker;
    private final EnergyWatch.Source energy;
    private final LongSupplier memory;
    /** Holds null when none runs or waits, since a job holds the model. */
    private final AtomicReference<Test> test = new AtomicReference<>();

    SelfTestWork(Worker worker, Executor main, EnergyWatch.Source energy, LongSupplier memory) {
        this.worker = worker;
        this.energy = energy;
        this.memory = memory;
        state = new State<>(main, Snapshot.NONE);
    }

    /** Begins; `device` is for the report. */
    void start(Model model, String device, String abi) {
        Test next = new Test(model, device, abi);
        test.set(next);
        state.set(new Snapshot(model.key, true, 0, 0, null, null));
        worker.run(next);
    }

    /** Ends it after the prompt that runs; the report says so. */
    void stop() {
        Test running = test.get();
        if (running != null) {
            running.stop();
        }
    }

    private final class Test extends ModelJob {
        private final String device;
        private final String abi;

        Test(Model model, String device, String abi) {
            super(model, energy);
            this.device = device;
            this.abi = abi;
        }

        @Override
        public void run() {
            try {
                String report = mayGoOn() ? replay() : null;
                state.set(new Snapshot(model.key, false, 0, 0, report, report == null ? reason : null));
            } catch (BundleException | EngineException | IOException | RuntimeException | VirtualMachineError
                    | LinkageError e) {
                state.set(new Snapshot(model.key, false, 0, 0, null, Failures.sentence(e)));
            } finally {
                test.compareAndSet(this, null);
            }
        }

        private String replay() throws BundleException, EngineException, IOException {
            Bundle bundle = model.bundle;
            int vocab = bundle.text() != null ? bundle.text().vocab()
                    : bundle.encoder() != null ? bundle.encoder().vocab() : bundle.speech().vocab();
            Golden golden = Golden.parse(Streams.text(model.files, bundle.golden()), abi, vocab);
            long start = System.nanoTime();
            List<GoldenReplay.Result> results = replay(golden, (done, all) -> {
                state.set(new Snapshot(model.key, true, done, all, null, null));
                return mayGoOn();
            });
            double seconds = (System.nanoTime() - start) / 1e9;
            int tokens = 0;
            for (GoldenReplay.Result result : results) {
                tokens += result.tokens();
            }
            return GoldenReport.text(bundle, golden, results, device, abi, model.runtimeVersion)
                    + String.format(Locale.ROOT, "%s%.1f s with %d threads, inputs included; %d MiB of memory (PSS)%n",
                            tokens == 0 ? "" : tokens + " tokens in ", seconds, model.threads,
                            memory.getAsLong() / 1024)
                    + (reason == null ? "" : reason + "\n");
        }

        private List<GoldenReplay.Result> replay(Golden golden, GoldenReplay.Progress progress)
                throws EngineException, IOException {
            if (model.encoder != null) {
                return GoldenReplay.run(golden, model.encoder, progress);
            }
            return model.transcriber != null
                    ? GoldenReplay.run(golden, model.transcriber, model.files, progress)
                    : GoldenReplay.run(golden, model.engine, model.bundle.text(), model.tokenizer, progress);
        }
    }
}
