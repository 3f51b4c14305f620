package qexport.ort;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qexport.core.EncoderModel;
import qexport.core.EngineException;
import qexport.core.Feeds;
import qexport.core.TextEncoder;

/**
 * An encoder that qexport wrote, in ONNX Runtime. The model is read where it is mapped.
 *
 * <p>One thread may run while another cancels or closes.
 */
public final class OrtTextEncoder implements TextEncoder {
    private static final String IDS = "input_ids";
    private static final String MASK = "attention_mask";
    private static final String TYPES = "token_type_ids";

    private final EncoderModel about;
    private final OrtEnvironment environment;
    /** ONNX Runtime reads weights from it as long as the session lives: it must not be collected before. */
    @SuppressWarnings("unused")
    private final ByteBuffer model;

    private final OrtSession session;
    private final Running running;
    private final List<String> inputs;
    private final FloatBuffer result; // (width)
    private final OnnxTensor resultTensor; // (1, width) over it
    private LongBuffer idsBuffer = Sessions.longs(16); // these grow with the longest text
    private LongBuffer onesBuffer = Sessions.longs(16);
    private LongBuffer zerosBuffer = Sessions.longs(16);

    /**
     * Opens a model.
     *
     * @param model the whole .ort file, direct (mapped); nobody may change it or the file until close
     * @param about what the bundle says about it
     * @param threads that compute, at least 1
     */
    public OrtTextEncoder(ByteBuffer model, EncoderModel about, int threads) throws EngineException {
        this.model = model;
        this.about = about;
        environment = Sessions.environment();
        OrtSession opened = Sessions.open(environment, model, threads);
        boolean done = false;
        try {
            inputs = inputs(opened);
            new Ports(opened.getOutputInfo(), "output").check(about.output(), OnnxJavaType.FLOAT, -1, about.width());
            result = Sessions.floats(about.width());
            resultTensor = OnnxTensor.createTensor(environment, result, new long[] {1, about.width()});
            running = new Running();
            done = true;
        } catch (OrtException problem) {
            throw new EngineException("ONNX Runtime does not open the model: " + problem.getMessage(), problem);
        } finally {
            if (!done) {
                Sessions.close(opened);
            }
        }
        session = opened;
    }

    @Override
    public int width() {
        return about.width();
    }

    @Override
    public synchronized void run(int[] ids, float[] into) throws EngineException {
        if (ids.length == 0 || ids.length > about.maxTokens()) {
            throw new EngineException("The text has " + ids.length + " tokens, the model takes 1 to "
                    + about.maxTokens() + "; shorten it.");
        }
        if (into.length < about.width()) {
            throw new EngineException("Room for " + into.length + " numbers, the model gives " + about.width() + ".");
        }
        Feeds.check(ids, about.vocab());
        running.start();
        try {
            step(ids);
            result.get(into, 0, about.width());
            result.rewind();
        } catch (OrtException problem) {
            throw new EngineException(
                    "ONNX Runtime stopped in a text of " + ids.length + " tokens: " + problem.getMessage(), problem);
        } finally {
            running.stop();
        }
    }

    @Override
    public String runtimeVersion() {
        return environment.getVersion();
    }

    /** Stops a run that another thread is in: it throws EngineException soon after. Else does nothing. */
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
            resultTensor.close();
            running.free();
            Sessions.close(session);
        }
    }

    private static List<String> inputs(OrtSession session) throws OrtException, EngineException {
        List<String> known = Arrays.asList(IDS, MASK, TYPES);
        List<String> names = new java.util.ArrayList<>(session.getInputNames());
        Ports ports = new Ports(session.getInputInfo(), "input");
        ports.tensor(IDS);
        for (String name : names) {
            if (!known.contains(name)) {
                throw new EngineException("The model has an input " + name + ", the app gives " + String.join(", ", known)
                        + "; it is no encoder of texts that qexport wrote.");
            }
            ports.check(name, OnnxJavaType.INT64, -1, -1);
        }
        return names;
    }

    /** One run over the ids; the outcome into its buffer. */
    private void step(int[] ids) throws OrtException {
        int[] ones = new int[ids.length];
        Arrays.fill(ones, 1);
        idsBuffer = Sessions.filled(idsBuffer, ids);
        onesBuffer = Sessions.filled(onesBuffer, ones);
        zerosBuffer = Sessions.filled(zerosBuffer, new int[ids.length]);
        Map<String, OnnxTensor> given = new LinkedHashMap<>();
        try {
            for (String name : inputs) {
                LongBuffer buffer = name.equals(IDS) ? idsBuffer : name.equals(MASK) ? onesBuffer : zerosBuffer;
                given.put(name, OnnxTensor.createTensor(environment, buffer, new long[] {1, ids.length}));
            }
            Map<String, OnnxTensor> outputs = Collections.singletonMap(about.output(), resultTensor);
            session.run(given, Collections.<String>emptySet(), outputs, running.options()).close();
        } finally {
            for (OnnxTensor tensor : given.values()) {
                tensor.close();
            }
        }
    }
}
