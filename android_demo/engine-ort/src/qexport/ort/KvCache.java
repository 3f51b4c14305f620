package qexport.ort;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import java.io.File;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qexport.core.EngineException;
import qexport.core.TextModel;

/**
 * Keys and values of the tokens held: one buffer of the whole context for each, input and output of a step alike, so
 * that a step writes its own tokens and copies nothing. The graph reads the number of tokens from the mask.
 *
 * <p>The memory is a private mapping of an empty file: the system gives pages as tokens come, writes none to disk,
 * and counts none to Java's heap, where Android puts buffers of allocateDirect.
 */
final class KvCache {
    private final List<OnnxTensor> tensors = new ArrayList<>();
    private final Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();

    /** Throws EngineException where there is no room. */
    KvCache(OrtEnvironment environment, ModelShape shape, TextModel text) throws OrtException, EngineException {
        long[] sizes = {1, text.kvHeads(), text.context(), text.headSize()};
        long bytes = sizes[1] * sizes[2] * sizes[3] * bytesOf(shape.cacheType);
        int count = shape.past.size();
        if (bytes > Integer.MAX_VALUE) {
            throw new EngineException("A layer's keys for " + text.context() + " tokens take " + bytes
                    + " bytes, Java maps at most " + Integer.MAX_VALUE + "; export with a smaller max_context.");
        }
        boolean done = false;
        try {
            List<ByteBuffer> memory = mapped(count, bytes);
            for (int i = 0; i < count; i++) {
                OnnxTensor tensor = OnnxTensor.createTensor(environment, memory.get(i), sizes, shape.cacheType);
                tensors.add(tensor);
                inputs.put(shape.past.get(i), tensor);
                outputs.put(shape.present.get(i), tensor);
            }
            done = true;
        } catch (IOException problem) {
            throw new EngineException("No room for keys and values of " + text.context() + " tokens ("
                    + count * bytes + " bytes): " + problem.getMessage() + "; close other apps.", problem);
        } finally {
            if (!done) {
                close();
            }
        }
    }

    /** What a step reads. */
    Map<String, OnnxTensor> inputs() {
        return inputs;
    }

    /** What a step writes: the same buffers. */
    Map<String, OnnxTensor> outputs() {
        return outputs;
    }

    /** Lets go of the memory, which the system has back when Java collects the buffers. */
    void close() {
        for (OnnxTensor tensor : tensors) {
            tensor.close();
        }
        tensors.clear();
        inputs.clear();
        outputs.clear();
    }

    private static int bytesOf(OnnxJavaType type) {
        return type == OnnxJavaType.FLOAT16 ? 2 : type == OnnxJavaType.INT8 ? 1 : 4;
    }

    private static List<ByteBuffer> mapped(int count, long bytes) throws IOException {
        File file = File.createTempFile("qexport", ".kv");
        try (RandomAccessFile open = new RandomAccessFile(file, "rw")) {
            open.setLength(count * bytes);
            List<ByteBuffer> parts = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                ByteBuffer part = open.getChannel().map(FileChannel.MapMode.PRIVATE, i * bytes, bytes);
                parts.add(part.order(ByteOrder.nativeOrder()));
            }
            return parts;
        } finally {
            if (!file.delete()) {
                file.deleteOnExit();
            }
        }
    }
}
