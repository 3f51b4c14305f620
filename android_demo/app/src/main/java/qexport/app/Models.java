package qexport.app;

import android.content.Context;
import java.io.IOException;
import java.util.concurrent.Executor;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.EnergyPolicy;
import qexport.core.EngineException;
import qexport.core.VariantChoice;

/** The one model that is loaded, or on its way. */
final class Models {
    final State<Load> state;
    private final Context context;
    private final Library library;
    private final Worker worker;
    private final Energy energy;
    private LoadJob job;  // of the main thread
    private Model current;  // of the worker

    Models(Context context, Library library, Worker worker, Energy energy, Executor main) {
        this.context = context;
        this.library = library;
        this.worker = worker;
        this.energy = energy;
        state = new State<>(main, Load.NONE);
    }

    /** Loads it unless it is loaded or on its way. One that failed is tried again only where the person asks for it. */
    void open(Choice choice, boolean asked) {
        Load now = state.get();
        boolean failed = now.phase == Load.Phase.FAILED || now.phase == Load.Phase.CANCELLED;
        if (now.phase == Load.Phase.NONE || !choice.equals(now.choice) || failed && asked) {
            openAgain(choice);
        }
    }

    /** Loads it, after what runs has been told to end. */
    void openAgain(Choice choice) {
        worker.stopAll();
        job = new LoadJob(choice);
        state.set(Load.at(choice, Load.Phase.WAITING, 0, 0));
        worker.run(job);
    }

    /** Ends loading; what was loaded before is not loaded again, and nothing stored is touched. */
    void cancel() {
        if (job != null) {
            job.stop();
        }
    }

    /** Bytes that come back when another model is loaded. */
    long heldBytes() {
        Model model = state.get().model;
        return model == null ? 0 : model.bundle.loadBytes();
    }

    /** Frees the model; a page that needs it loads it again. */
    void close() {
        worker.run(() -> {
            closeCurrent();
            state.set(Load.NONE);
        });
    }

    /** Frees the model if it is this one; on the worker. */
    void closeIf(String id) {
        if (current != null && current.bundle.id().equals(id)) {
            closeCurrent();
            state.set(Load.NONE);
        }
    }

    private void closeCurrent() {
        if (current != null) {
            Model closing = current;
            current = null;
            closing.close();
            closing = null;
            System.gc();  // mapped memory comes back with the buffers that held it
        }
    }

    private final class LoadJob implements Worker.Job {
        private final Choice choice;
        private volatile boolean stopped;

        LoadJob(Choice choice) {
            this.choice = choice;
        }

        @Override
        public void stop() {
            stopped = true;
        }

        @Override
        public void run() {
            try {
                check();
                closeCurrent();
                Entry entry = library.read().entry(choice);
                if (entry == null) {
                    throw new BundleException(choice.name + " is no longer here; go back and choose another model");
                }
                EnergyPolicy.Decision decision = energy.decide();
                if (!decision.run()) {
                    throw new BundleException(decision.reason());
                }
                VariantChoice.Loaded<Model> loaded = VariantChoice.load(
                        entry.fitting(Devices.now(context, 0), decision.mostRank()),
                        bundle -> load(bundle, decision.threads()));
                current = loaded.value();
                check();
                state.set(Load.ready(choice, current, loaded.notes()));
            } catch (Stopped e) {
                closeCurrent();
                state.set(Load.at(choice, Load.Phase.CANCELLED, 0, 0));
            } catch (BundleException | RuntimeException | LinkageError | VirtualMachineError e) {
                state.set(Load.failed(choice, Failures.sentence(e)));
            }
        }

        /** Between steps. */
        private void check() {
            if (stopped) {
                throw new Stopped();
            }
        }

        private Model load(Bundle bundle, int threads) throws BundleException, EngineException {
            try {
                Stored stored = new Stored(context, library.catalog.get().found(bundle.id()));
                if (!stored.prepare(progress(Load.Phase.COPYING)) || !verified(bundle, stored)) {
                    throw new Stopped();
                }
                state.set(Load.at(choice, Load.Phase.OPENING, 0, 0));
                return Engines.open(bundle, stored, threads);
            } catch (IOException | LinkageError | VirtualMachineError e) {
                throw Failures.asEngine(e);
            }
        }

        private boolean verified(Bundle bundle, Stored stored) throws BundleException {
            try {
                return BundleCheck.verify(bundle, stored, progress(Load.Phase.CHECKING));
            } catch (BundleException e) {
                stored.forgetCopies();  // the next try makes new ones
                throw e;
            }
        }

        private BundleCheck.Progress progress(Load.Phase phase) {
            return (done, all) -> {
                state.set(Load.at(choice, phase, done, all));
                return !stopped;
            };
        }
    }
}
