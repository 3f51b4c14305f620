package qexport.app;

import qexport.core.EnergyPolicy;

/** Work with a model that ends when the person or the energy policy says so. */
abstract class ModelJob implements Worker.Job {
    final Model model;
    /** Why the policy ended it; null: it did not. */
    String reason;
    private final EnergyWatch watch;
    private volatile boolean stopped;

    ModelJob(Model model, EnergyWatch.Source energy) {
        this.model = model;
        watch = new EnergyWatch(energy);
    }

    @Override
    public final void stop() {
        stopped = true;
        cancel();
    }

    /** Whether the person ended it. */
    final boolean stopped() {
        return stopped;
    }

    /** Ends what the model computes now; from any thread. */
    void cancel() {
    }

    /** Rests so long between steps. */
    void pause(int millis) {
    }

    /** Asked between steps; false, and {@link #cancel} was called, when the work has to end. */
    final boolean mayGoOn() {
        EnergyPolicy.Decision decision = watch.at(System.nanoTime());
        pause(decision.pauseMillis());
        if (!decision.run()) {
            reason = decision.reason();
        }
        boolean ends = stopped || !decision.run();
        if (ends) {
            cancel();
        }
        return !ends;
    }
}
