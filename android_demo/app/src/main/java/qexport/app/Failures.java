package qexport.app;

import java.io.IOException;
import qexport.core.BundleException;
import qexport.core.EngineException;

/** What goes wrong, as a sentence for a person. */
final class Failures {
    private Failures() {
    }

    /** The sentence; core's own exceptions carry it already. */
    static String sentence(Throwable problem) {
        if (problem instanceof OutOfMemoryError) {
            return "Memory ran out; close other apps or choose a smaller model";
        }
        if (problem instanceof LinkageError) {
            return "A native library does not load on this device: " + problem.getMessage()
                    + "; install the build of the app that is for its processor";
        }
        boolean said = problem instanceof BundleException || problem instanceof EngineException
                || problem instanceof IllegalArgumentException;
        if (said && problem.getMessage() != null) {
            return problem.getMessage();
        }
        if (problem instanceof IOException) {
            return "A file cannot be read or written: " + problem.getMessage() + "; is the storage full or removed?";
        }
        return "The app made a mistake: " + problem + "; please report it with what you did before";
    }

    /** The same failure as one that a fallback to a smaller model may follow. */
    static EngineException asEngine(Throwable problem) {
        return new EngineException(sentence(problem), problem);
    }
}
