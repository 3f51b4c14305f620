package qexport.et;

import qexport.core.Engine;
import qexport.core.EngineException;
import qexport.core.Feeds;
import qexport.core.TextModel;

/**
 * A language model that qexport wrote, in ExecuTorch. The program maps its file and keeps keys and values itself, for
 * the whole context, outside Java's heap.
 *
 * <p>One thread may feed while another cancels or closes.
 */
public final class EtEngine implements Engine {
    private final TextModel text;
    private final Program program;
    private final Running running = new Running(); // feed, reset and close hold the engine itself, for long
    private int past = 0;

    /**
     * Opens a model, and tries it with one token.
     *
     * @param path the .pte file, not in an APK; nobody may change it until close
     * @param text what the bundle says about it
     * @param threads that compute, at least 1, and as many as other open models have
     */
    public EtEngine(String path, TextModel text, int threads) throws EngineException {
        this.text = text;
        try {
            program = Program.open(path, text, threads);
        } catch (LinkageError problem) {
            throw new EngineException("This build of the app carries no ExecuTorch for this device (" + problem
                    + "); install the build that does, or bundle the model's file for onnxruntime.", problem);
        }
    }

    /** In parts as long as the program takes; where one fails, those before it are held. */
    @Override
    public synchronized void feed(int[] ids, float[] into) throws EngineException {
        Feeds.check(ids, past, text.context(), text.vocab(), into);
        running.start();
        try {
            for (int from = 0; from < ids.length; from += program.part) {
                if (running.isStopped()) {
                    throw new EngineException("Stopped at token " + past + " of " + text.context() + ", as asked.");
                }
                int to = Math.min(ids.length, from + program.part);
                program.run(ids, from, to, past, to == ids.length ? into : null);
                past += to - from;
            }
        } catch (RuntimeException problem) {
            throw new EngineException(
                    "ExecuTorch stopped at token " + past + " of " + text.context() + ": " + problem.getMessage(),
                    problem);
        } finally {
            running.stop();
        }
    }

    @Override
    public synchronized int past() {
        return past;
    }

    @Override
    public int context() {
        return text.context();
    }

    /** Forgets the tokens: the program overwrites their keys and values before it reads them. */
    @Override
    public synchronized void reset() {
        past = 0;
    }

    /** ExecuTorch's API for Java does not tell it. */
    @Override
    public String runtimeVersion() {
        return "of unknown version";
    }

    /**
     * Ends a feed that another thread is in after the part that is being computed: it throws EngineException, and the
     * parts until then are held. A feed's last part is finished. Does nothing when there is none.
     */
    public void cancel() {
        running.cancel();
    }

    /** Ends what is running as {@link #cancel} does, waits for its end and frees all. A second call does nothing. */
    @Override
    public void close() {
        if (!running.close()) {
            return;
        }
        synchronized (this) {
            program.close();
        }
    }
}
