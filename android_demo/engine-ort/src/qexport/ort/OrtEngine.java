package qexport.ort;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import qexport.core.Engine;
import qexport.core.EngineException;
import qexport.core.Feeds;
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
    private final Running running; // feed, reset and close hold the engine itself, for long
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();
    private final LongBuffer ones; // (context): its beginning is each step's mask
    private final FloatBuffer logits; // (vocab)
    private final OnnxTensor logitsTensor; // (1, 1, vocab) over it
    private LongBuffer idsBuffer = Sessions.longs(16); // grows with the longest prompt
    private int past = 0;

    /**
     * Opens a model.
     *
     * @param model the whole .ort file, direct (mapped); nobody may change it or the file until close
     * @param text what the bundle says about it
     * @param threads that compute, at least 1
     */
    public OrtEngine(ByteBuffer model, TextModel text, int threads) throws EngineException {
        this.text = text;
        this.model = model;
        environment = Sessions.environment();
        OrtSession opened = null;
        KvCache caches = null;
        try {
            opened = Sessions.open(environment, model, threads);
            ModelShape shape = ModelShape.of(opened, text);
            caches = new KvCache(environment, shape, text);
            ones = Sessions.longs(text.context());
            for (int i = 0; i < text.context(); i++) {
                ones.put(i, 1);
            }
            logits = Sessions.floats(text.vocab());
            logitsTensor = OnnxTensor.createTensor(environment, logits, new long[] {1, 1, text.vocab()});
            outputs.putAll(caches.outputs());
            outputs.put(ModelShape.LOGITS, logitsTensor);
            running = new Running();
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
        Feeds.check(ids, past, text.context(), text.vocab(), into);
        running.start();
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
        running.cancel();
    }

    /** Stops what is running, waits for its end and frees all. A second call does nothing. */
    @Override
    public void close() {
        if (!running.close()) {
            return;
        }
        synchronized (this) {
            logitsTensor.close();
            running.free();
            closeBoth(session, cache);
        }
    }

    /** One run over the ids; logits into their buffer. */
    private void step(int[] ids) throws OrtException {
        int total = past + ids.length;
        ones.limit(total);
        idsBuffer = Sessions.filled(idsBuffer, ids);
        try (OnnxTensor idsTensor = OnnxTensor.createTensor(environment, idsBuffer, new long[] {1, ids.length});
                OnnxTensor mask = OnnxTensor.createTensor(environment, ones, new long[] {1, total})) {
            Map<String, OnnxTensor> inputs = new LinkedHashMap<>(cache.inputs());
            inputs.put(ModelShape.IDS, idsTensor);
            inputs.put(ModelShape.MASK, mask);
            session.run(inputs, Collections.<String>emptySet(), outputs, running.options()).close();
        }
    }

    private static void closeBoth(OrtSession session, KvCache cache) {
        if (cache != null) {
            cache.close();
        }
        Sessions.close(session);
    }
}
