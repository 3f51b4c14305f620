package qexport.ort;

import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import qexport.core.EngineException;

/** Lets one thread stop what another one computes, and keeps a closed model from computing. */
final class Running {
    private final OrtSession.RunOptions options;
    private boolean busy = false;
    private boolean closed = false;

    Running() throws OrtException {
        options = new OrtSession.RunOptions();
    }

    /** For every run of a session. */
    OrtSession.RunOptions options() {
        return options;
    }

    /** Before a run; {@link #stop} comes after it in any case. */
    synchronized void start() throws EngineException {
        if (closed) {
            throw new EngineException("The model is closed; open it again.");
        }
        busy = true;
    }

    synchronized void stop() {
        busy = false;
        terminate(false);
    }

    /** Ends the run that another thread is in. */
    synchronized void cancel() {
        if (busy) {
            terminate(true);
        }
    }

    /** Ends what is running and refuses what comes. True the first time: wait for its end, then free all. */
    synchronized boolean close() {
        boolean first = !closed;
        closed = true;
        cancel();
        return first;
    }

    /** When nothing runs any more. */
    void free() {
        options.close();
    }

    private void terminate(boolean on) {
        try {
            options.setTerminate(on);
        } catch (OrtException problem) {
            throw new IllegalStateException("ONNX Runtime does not take a flag", problem);
        }
    }
}
