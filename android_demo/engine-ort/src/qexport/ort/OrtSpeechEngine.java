package qexport.ort;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;
import qexport.core.EngineException;
import qexport.core.Feeds;
import qexport.core.SpeechEngine;
import qexport.core.SpeechModel;

/**
 * A speech model that qexport wrote, in ONNX Runtime: a graph that hears and one that writes. Both are read where they
 * are mapped; keys and values stay in the runtime's own memory.
 *
 * <p>One thread may listen or feed while another cancels or closes.
 */
public final class OrtSpeechEngine implements SpeechEngine {
    private final SpeechModel about;
    private final OrtEnvironment environment;
    /** ONNX Runtime reads weights from them as long as the sessions live: they must not be collected before. */
    @SuppressWarnings("unused")
    private final ByteBuffer[] models;

    private final OrtSession encoder;
    private final OrtSession decoder;
    private final SpeechShape shape;
    private final Running running; // listen, feed, reset and close hold the engine itself, for long
    private final FloatBuffer features; // (bins, frames)
    private FloatBuffer logits; // (tokens, vocab): grows with the prompt
    private LongBuffer idsBuffer = Sessions.longs(16);
    private OrtSession.Result heard; // keys and values of the sound; null: nothing was heard
    private OrtSession.Result written; // those of the tokens; null: none
    private int past = 0;

    /**
     * Opens a model.
     *
     * @param encoder the whole .ort file of the encoder, direct (mapped); nobody may change it until close
     * @param decoder that of the decoder
     * @param about what the bundle says about them
     * @param threads that compute, at least 1
     */
    public OrtSpeechEngine(ByteBuffer encoder, ByteBuffer decoder, SpeechModel about, int threads)
            throws EngineException {
        this.about = about;
        models = new ByteBuffer[] {encoder, decoder};
        environment = Sessions.environment();
        OrtSession hearing = null;
        OrtSession writing = null;
        boolean done = false;
        try {
            hearing = Sessions.open(environment, encoder, threads);
            writing = Sessions.open(environment, decoder, threads);
            shape = SpeechShape.of(hearing, writing, about);
            features = Sessions.floats(about.bins() * about.frames());
            logits = Sessions.floats(about.vocab());
            running = new Running();
            done = true;
        } catch (OrtException problem) {
            throw new EngineException("ONNX Runtime does not open the model: " + problem.getMessage(), problem);
        } finally {
            if (!done) {
                Sessions.close(hearing);
                Sessions.close(writing);
            }
        }
        this.encoder = hearing;
        this.decoder = writing;
    }

    @Override
    public synchronized void listen(float[] given) throws EngineException {
        if (given.length != about.bins() * about.frames()) {
            throw new EngineException(given.length + " features, the model hears " + about.bins() + " x "
                    + about.frames() + "; the sound was prepared for another model.");
        }
        forget();
        running.start();
        features.put(given);
        features.rewind();
        long[] size = {1, about.bins(), about.frames()};
        try (OnnxTensor sound = OnnxTensor.createTensor(environment, features, size)) {
            heard = encoder.run(Collections.singletonMap(about.input(), sound), shape.heard.keySet(), running.options());
        } catch (OrtException problem) {
            throw new EngineException("ONNX Runtime stopped while it listened: " + problem.getMessage(), problem);
        } finally {
            running.stop();
        }
    }

    @Override
    public synchronized void feed(int[] ids, float[] into) throws EngineException {
        if (ids.length == 0 || past + ids.length > about.context()) {
            throw new EngineException(ids.length + " tokens after " + past + " do not fit: at least 1, and at most "
                    + about.context() + " together; give it a shorter sound.");
        }
        if (into.length < about.vocab()) {
            throw new EngineException("Room for " + into.length + " logits, the model gives " + about.vocab() + ".");
        }
        Feeds.check(ids, about.vocab());
        running.start();
        try {
            if (heard == null) {
                throw new EngineException("The model has heard nothing yet; let it listen first.");
            }
            OrtSession.Result before = written;
            written = step(ids);
            close(before);
            logits.position((ids.length - 1) * about.vocab());
            logits.get(into, 0, about.vocab());
            logits.rewind();
            past += ids.length;
        } catch (OrtException problem) {
            throw new EngineException("ONNX Runtime stopped at token " + past + " of " + about.context() + ": "
                    + problem.getMessage(), problem);
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
        return about.context();
    }

    /** Forgets the tokens; what it heard is kept. */
    @Override
    public synchronized void reset() {
        close(written);
        written = null;
        past = 0;
    }

    @Override
    public String runtimeVersion() {
        return environment.getVersion();
    }

    @Override
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
            forget();
            running.free();
            Sessions.close(encoder);
            Sessions.close(decoder);
        }
    }

    private void forget() {
        reset();
        close(heard);
        heard = null;
    }

    private static void close(OrtSession.Result result) {
        if (result != null) {
            result.close();
        }
    }

    /** One run over the ids; logits of all into their buffer. */
    private OrtSession.Result step(int[] ids) throws OrtException {
        idsBuffer = Sessions.filled(idsBuffer, ids);
        if (logits.capacity() < ids.length * about.vocab()) {
            logits = Sessions.floats(ids.length * about.vocab());
        }
        logits.limit(ids.length * about.vocab());
        Map<String, OnnxTensor> own = new LinkedHashMap<>(); // made here, closed here
        Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
        try {
            own.put(SpeechShape.IDS, OnnxTensor.createTensor(environment, idsBuffer, new long[] {1, ids.length}));
            OnnxTensor row = OnnxTensor.createTensor(environment, logits, new long[] {1, ids.length, about.vocab()});
            try {
                if (written == null) {
                    addEmpty(own);
                } else {
                    add(written, shape.written, inputs);
                }
                add(heard, shape.heard, inputs);
                inputs.putAll(own);
                Set<String> wanted = new LinkedHashSet<>(shape.written.keySet());
                Map<String, OnnxTensor> given = Collections.singletonMap(SpeechShape.LOGITS, row);
                return decoder.run(inputs, wanted, given, running.options());
            } finally {
                row.close();
                logits.clear();
            }
        } finally {
            for (OnnxTensor tensor : own.values()) {
                tensor.close();
            }
        }
    }

    /** What one run gave, under the names that the next one takes. */
    private static void add(OrtSession.Result result, Map<String, String> names, Map<String, OnnxTensor> inputs) {
        for (Map.Entry<String, OnnxValue> entry : result) {
            String name = names.get(entry.getKey());
            if (name != null) {
                inputs.put(name, (OnnxTensor) entry.getValue());
            }
        }
    }

    private void addEmpty(Map<String, OnnxTensor> inputs) throws OrtException {
        FloatBuffer nothing = Sessions.floats(1);
        nothing.limit(0);
        long[] size = {1, about.heads(), 0, about.headSize()};
        for (String name : shape.written.values()) {
            inputs.put(name, OnnxTensor.createTensor(environment, nothing, size));
        }
    }
}
