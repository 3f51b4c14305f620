package qexport.ort;

import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import qexport.core.EngineException;

/** Opens mapped .ort files so that nothing of them is copied; the buffers that runs read and write. */
final class Sessions {
    private Sessions() {
    }

    static OrtEnvironment environment() throws EngineException {
        try {
            OrtEnvironment environment = OrtEnvironment.getEnvironment();
            environment.setTelemetry(false);
            return environment;
        } catch (LinkageError | RuntimeException | OrtException problem) {
            throw new EngineException("ONNX Runtime's library does not load: " + problem, problem);
        }
    }

    /** The whole file `model`, which must stay referenced as long as the session lives. */
    static OrtSession open(OrtEnvironment environment, ByteBuffer model, int threads) throws EngineException {
        if (!model.isDirect()) {
            throw new EngineException(
                    "The model lies in Java's heap, where ONNX Runtime cannot read it without a copy; map its file.");
        }
        if (threads < 1) {
            throw new EngineException("Threads: " + threads + "; at least 1 is needed.");
        }
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(threads);
            options.addConfigEntry("session.load_model_format", "ORT");
            // otherwise the runtime copies the whole file, and every weight in it once more
            options.addConfigEntry("session.use_ort_model_bytes_directly", "1");
            options.addConfigEntry("session.use_ort_model_bytes_for_initializers", "1");
            // an arena would keep memory for the longest prompt that was ever read
            options.setCPUArenaAllocator(false);
            return environment.createSession(model, options);
        } catch (OrtException problem) {
            throw new EngineException("ONNX Runtime does not open the model: " + problem.getMessage(), problem);
        }
    }

    /** null: nothing to close. */
    static void close(OrtSession session) {
        if (session == null) {
            return;
        }
        try {
            session.close();
        } catch (OrtException problem) {
            throw new IllegalStateException("ONNX Runtime does not free the model", problem);
        }
    }

    static LongBuffer longs(int count) {
        return ByteBuffer.allocateDirect(8 * count).order(ByteOrder.nativeOrder()).asLongBuffer();
    }

    static FloatBuffer floats(int count) {
        return ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer();
    }

    /** The ids in `buffer`, or in a larger one. */
    static LongBuffer filled(LongBuffer buffer, int[] ids) {
        LongBuffer filled = buffer.capacity() < ids.length ? longs(ids.length) : buffer;
        filled.clear();
        for (int id : ids) {
            filled.put(id);
        }
        filled.flip();
        return filled;
    }
}
