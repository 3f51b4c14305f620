package qexport.ort;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import qexport.core.Engine;
import qexport.core.EngineException;
import qexport.core.TextModel;

/**
 * A language model that qexport wrote, in ONNX Runtime. The model is read where it is mapped, and keys and values lie
 * outside Java's heap, too (KvCache).
 *
 * <p>One thread may feed while another cancels or closes.
 */
public final class OrtEngine implements Engine {
    private final TextModel text;
    private final OrtEnvironment environment;
    /** ONNX Runtime reads weights from it as long as the session lives: it must not be collected before. */
    @SuppressWarnings("unused")
    private final ByteBuffer model;

    private final OrtSession session;
    private final KvCache cache;
    private final OrtSession.RunOptions running;
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();
    private final LongBuffer ones; // (context): its beginning is each step's mask
    private final FloatBuffer logits; // (vocab)
    private final OnnxTensor logitsTensor; // (1, 1, vocab) over it
    private LongBuffer idsBuffer = longs(16); // grows with the longest prompt
    private int past = 0;

    /** Guards `busy`, `closed` and the run options; feed, reset and close hold the engine itself, for long. */
    private final Object state = new Object();

    private boolean busy = false;
    private boolean closed = false;

    /**
     * Opens a model.
     *
     * @param model the whole .ort file, direct (mapped); nobody may change it or the file until close
     * @param text what the bundle says about it
     * @param threads that compute, at least 1
     */
    public OrtEngine(ByteBuffer model, TextModel text, int threads) throws EngineException {
        if (!model.isDirect()) {
            throw new EngineException(
                    "The model lies in Java's heap, where ONNX Runtime cannot read it without a copy; map its file.");
        }
        if (threads < 1) {
            throw new EngineException("Threads: " + threads + "; at least 1 is needed.");
        }
        this.text = text;
        this.model = model;
        environment = environment();
        OrtSession opened = null;
        KvCache caches = null;
        try {
            environment.setTelemetry(false);
            opened = open(environment, model, threads);
            ModelShape shape = ModelShape.of(opened, text);
            caches = new KvCache(environment, shape, text);
            ones = longs(text.context());
            for (int i = 0; i < text.context(); i++) {
                ones.put(i, 1);
            }
            logits = floats(text.vocab());
            logitsTensor = OnnxTensor.createTensor(environment, logits, new long[] {1, 1, text.vocab()});
            outputs.putAll(caches.outputs());
            outputs.put(ModelShape.LOGITS, logitsTensor);
            running = new OrtSession.RunOptions();
        } catch (OrtException problem) {
            closeBoth(opened, caches);
            throw new EngineException("ONNX Runtime does not open the model: " + problem.getMessage(), problem);
        } catch (EngineException problem) {
            closeBoth(opened, caches);
            throw problem;
        }
        session = opened;
        cache = caches;
    }

    @Override
    public synchronized void feed(int[] ids, float[] into) throws EngineException {
        check(ids, into);
        start();
        try {
            step(ids);
            logits.get(into, 0, text.vocab());
            logits.rewind();
            past += ids.length;
        } catch (OrtException problem) {
            throw new EngineException(
                    "ONNX Runtime stopped at token " + past + " of " + text.context() + ": " + problem.getMessage(),
                    problem);
        } finally {
            stop();
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

    /** Forgets the tokens; their memory is kept for the next ones. */
    @Override
    public synchronized void reset() {
        past = 0;
    }

    @Override
    public String runtimeVersion() {
        return environment.getVersion();
    }

    /**
     * Stops a feed that another thread is in: it throws EngineException soon after, and the tokens held are those
     * before it. Does nothing when there is none.
     */
    public void cancel() {
        synchronized (state) {
            if (busy) {
                terminate(true);
            }
        }
    }

    /** Stops what is running, waits for its end and frees all. A second call does nothing. */
    @Override
    public void close() {
        synchronized (state) {
            if (closed) {
                return;
            }
            closed = true;
            if (busy) {
                terminate(true);
            }
        }
        synchronized (this) {
            logitsTensor.close();
            running.close();
            closeBoth(session, cache);
        }
    }

    private void check(int[] ids, float[] into) throws EngineException {
        if (ids.length == 0 || past + ids.length > text.context()) {
            throw new EngineException(
                    ids.length + " tokens after " + past + " do not fit: at least 1, and at most " + text.context()
                            + " together; shorten the text or start a new chat.");
        }
        if (into.length < text.vocab()) {
            throw new EngineException("Room for " + into.length + " logits, the model gives " + text.vocab() + ".");
        }
        for (int id : ids) {
            if (id < 0 || id >= text.vocab()) {
                throw new EngineException(
                        "Token " + id + " is none of the model's 0 to " + (text.vocab() - 1)
                                + "; the tokenizer is another model's.");
            }
        }
    }

    /** One run over the ids; logits into their buffer. */
    private void step(int[] ids) throws OrtException {
        int total = past + ids.length;
        ones.limit(total);
        try (OnnxTensor idsTensor = OnnxTensor.createTensor(environment, idsOf(ids), new long[] {1, ids.length});
                OnnxTensor mask = OnnxTensor.createTensor(environment, ones, new long[] {1, total})) {
            Map<String, OnnxTensor> inputs = new LinkedHashMap<>(cache.inputs());
            inputs.put(ModelShape.IDS, idsTensor);
            inputs.put(ModelShape.MASK, mask);
            session.run(inputs, Collections.<String>emptySet(), outputs, running).close();
        }
    }

    private LongBuffer idsOf(int[] ids) {
        if (idsBuffer.capacity() < ids.length) {
            idsBuffer = longs(ids.length);
        }
        idsBuffer.clear();
        for (int id : ids) {
            idsBuffer.put(id);
        }
        idsBuffer.flip();
        return idsBuffer;
    }

    private void start() throws EngineException {
        synchronized (state) {
            if (closed) {
                throw new EngineException("The model is closed; open it again.");
            }
            busy = true;
        }
    }

    private void stop() {
        synchronized (state) {
            busy = false;
            terminate(false);
        }
    }

    private void terminate(boolean on) {
        try {
            running.setTerminate(on);
        } catch (OrtException problem) {
            throw new IllegalStateException("ONNX Runtime does not take a flag", problem);
        }
    }

    private static OrtEnvironment environment() throws EngineException {
        try {
            return OrtEnvironment.getEnvironment();
        } catch (LinkageError | RuntimeException problem) {
            throw new EngineException("ONNX Runtime's library does not load: " + problem, problem);
        }
    }

    private static OrtSession open(OrtEnvironment environment, ByteBuffer model, int threads) throws OrtException {
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(threads);
            options.addConfigEntry("session.load_model_format", "ORT");
            // otherwise the runtime copies the whole file, and every weight in it once more
            options.addConfigEntry("session.use_ort_model_bytes_directly", "1");
            options.addConfigEntry("session.use_ort_model_bytes_for_initializers", "1");
            // an arena would keep memory for the longest prompt that was ever read
            options.setCPUArenaAllocator(false);
            return environment.createSession(model, options);
        }
    }

    private static void closeBoth(OrtSession session, KvCache cache) {
        if (cache != null) {
            cache.close();
        }
        if (session != null) {
            try {
                session.close();
            } catch (OrtException problem) {
                throw new IllegalStateException("ONNX Runtime does not free the model", problem);
            }
        }
    }

    private static LongBuffer longs(int count) {
        return ByteBuffer.allocateDirect(8 * count).order(ByteOrder.nativeOrder()).asLongBuffer();
    }

    private static FloatBuffer floats(int count) {
        return ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer();
    }
}
