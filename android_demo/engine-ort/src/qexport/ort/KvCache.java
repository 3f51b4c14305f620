package qexport.ort;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qexport.core.EngineException;
import qexport.core.TextModel;

/**
 * Keys and values of the tokens held: buffers that are longer than what they hold, the same ones input and output
 * of a step, so that a step writes its own token and copies nothing.
 */
final class KvCache {
    /** The first length; then it doubles, so that growing costs less than one copy of each token. */
    private static final int FIRST = 256;

    private final OrtEnvironment environment;
    private final ModelShape shape;
    private final TextModel text;
    private final List<ByteBuffer> buffers = new ArrayList<>(); // (1, kv heads, capacity, head size) each
    private final List<OnnxTensor> tensors = new ArrayList<>();
    private final Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();
    private int capacity = 0;

    KvCache(OrtEnvironment environment, ModelShape shape, TextModel text) throws OrtException, EngineException {
        this.environment = environment;
        this.shape = shape;
        this.text = text;
        hold(0, 1);
    }

    /** Makes room for `total` tokens, and keeps the first `held`. */
    void hold(int held, int total) throws OrtException, EngineException {
        if (total <= capacity) {
            return;
        }
        int length = FIRST;
        while (length < total && length <= text.context() / 2) {
            length *= 2;
        }
        length = length < total ? text.context() : Math.min(length, text.context());
        List<ByteBuffer> longer = allocate(length);
        for (int i = 0; i < buffers.size(); i++) {
            copy(buffers.get(i), longer.get(i), held, length);
        }
        replace(longer, length);
    }

    /** What a step reads. */
    Map<String, OnnxTensor> inputs() {
        return inputs;
    }

    /** What a step writes: the same buffers. */
    Map<String, OnnxTensor> outputs() {
        return outputs;
    }

    void close() {
        for (OnnxTensor tensor : tensors) {
            tensor.close();
        }
        tensors.clear();
        buffers.clear();
        inputs.clear();
        outputs.clear();
        capacity = 0;
    }

    private List<ByteBuffer> allocate(int length) throws EngineException {
        long bytes = (long) text.kvHeads() * length * rowBytes();
        List<ByteBuffer> found = new ArrayList<>();
        try {
            for (int i = 0; i < shape.past.size(); i++) {
                found.add(ByteBuffer.allocateDirect(Math.toIntExact(bytes)).order(ByteOrder.nativeOrder()));
            }
        } catch (OutOfMemoryError | ArithmeticException problem) {
            throw new EngineException(
                    "Keys and values of " + length + " tokens take " + bytes * shape.past.size() / 1_000_000
                            + " MB, more than this app may use; start a new chat, or write less.",
                    problem);
        }
        return found;
    }

    /** Head by head, since a head's tokens lie together. */
    private void copy(ByteBuffer from, ByteBuffer to, int held, int length) {
        int row = rowBytes();
        for (int head = 0; head < text.kvHeads(); head++) {
            ByteBuffer source = from.duplicate();
            source.position(head * capacity * row).limit((head * capacity + held) * row);
            ByteBuffer target = to.duplicate();
            target.position(head * length * row);
            target.put(source);
        }
    }

    private void replace(List<ByteBuffer> with, int length) throws OrtException {
        close();
        long[] sizes = {1, text.kvHeads(), length, text.headSize()};
        for (int i = 0; i < with.size(); i++) {
            OnnxTensor tensor = OnnxTensor.createTensor(environment, with.get(i), sizes, shape.cacheType);
            tensors.add(tensor);
            inputs.put(shape.past.get(i), tensor);
            outputs.put(shape.present.get(i), tensor);
        }
        buffers.addAll(with);
        capacity = length;
    }

    /** Of one token in one head. */
    private int rowBytes() {
        int each = shape.cacheType == OnnxJavaType.FLOAT ? 4 : shape.cacheType == OnnxJavaType.INT8 ? 1 : 2;
        return text.headSize() * each;
    }
}
