package qexport.et;

import qexport.core.EngineException;

/**
 * ExecuTorch has one pool of threads for all models of a process, and open ones point into it. To open another with
 * another number of threads would free that pool under them, and crash the app at their next step.
 */
final class Threads {
    private static int models = 0;
    private static int threads = 0;

    private Threads() {
    }

    /** For a model that is opened; {@link #release} when it is closed. */
    static synchronized void claim(int wanted) throws EngineException {
        if (wanted < 1) {
            throw new EngineException("Threads: " + wanted + "; at least 1 is needed.");
        }
        if (models > 0 && threads != wanted) {
            throw new EngineException("ExecuTorch computes with " + threads + " threads for a model that is open, and "
                    + wanted + " are asked for; close that one first, or open this one with " + threads + ".");
        }
        threads = wanted;
        models++;
    }

    static synchronized void release() {
        models--;
    }
}
