package qexport.et;

import qexport.core.EngineException;

/** Lets one thread end what another one computes, and keeps a closed model from computing. */
final class Running {
    private boolean busy = false;
    private boolean stopped = false;
    private boolean closed = false;

    /** Before a feed; {@link #stop} comes after it in any case. */
    synchronized void start() throws EngineException {
        if (closed) {
            throw new EngineException("The model is closed; open it again.");
        }
        busy = true;
    }

    synchronized void stop() {
        busy = false;
        stopped = false;
    }

    /** True when the feed that runs is to end. */
    synchronized boolean isStopped() {
        return stopped;
    }

    /** Ends the feed that another thread is in. */
    synchronized void cancel() {
        stopped = busy;
    }

    /** Ends what is running and refuses what comes. True the first time: wait for its end, then free all. */
    synchronized boolean close() {
        boolean first = !closed;
        closed = true;
        cancel();
        return first;
    }
}
