package qexport.ort;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OnnxValue;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import qexport.core.EngineException;
import qexport.core.TextModel;

/**
 * Keys and values of the tokens held: buffers that are longer than what they hold, the same ones input and output
 * of a step, so that a step writes its own token and copies nothing. They belong to ONNX Runtime, which makes them
 * in a step that asks for more (see OrtEngine); Java's heap, which on Android holds direct buffers too, never does.
 */
final class KvCache {
    /** The first length; then it doubles, so that growing costs less than one copy of each token. */
    private static final int FIRST = 256;

    private final ModelShape shape;
    private final int longest;
    private final List<OnnxTensor> buffers = new ArrayList<>();
    private final Map<String, OnnxTensor> inputs = new LinkedHashMap<>();
    private final Map<String, OnnxTensor> outputs = new LinkedHashMap<>();
    private int capacity = 0;

    KvCache(OrtEnvironment environment, ModelShape shape, TextModel text) throws OrtException {
        this.shape = shape;
        this.longest = text.context();
        long[] empty = {1, text.kvHeads(), 0, text.headSize()};
        List<OnnxTensor> first = new ArrayList<>();
        try {
            for (int i = 0; i < shape.past.size(); i++) {
                ByteBuffer nothing = ByteBuffer.allocateDirect(8).order(ByteOrder.nativeOrder());
                nothing.limit(0);
                first.add(OnnxTensor.createTensor(environment, nothing, empty, shape.cacheType));
            }
        } catch (OrtException problem) {
            closeAll(first);
            throw problem;
        }
        replace(first);
    }

    /** Tokens that fit into the buffers of now. */
    int capacity() {
        return capacity;
    }

    /** Length of the buffers that hold `total` tokens: at most the context. */
    int capacityFor(int total) {
        int length = FIRST;
        while (length < total && length <= longest / 2) {
            length *= 2;
        }
        return length < total || length > longest ? longest : length;
    }

    /** What a step reads. */
    Map<String, OnnxTensor> inputs() {
        return inputs;
    }

    /** What a step writes that fits: the same buffers. */
    Map<String, OnnxTensor> outputs() {
        return outputs;
    }

    /** Takes over the buffers, `length` tokens long, that a step has made; frees those before. */
    void take(OrtSession.Result result, Set<String> made, int length) throws EngineException {
        List<OnnxTensor> grown = new ArrayList<>();
        for (String name : made) {
            OnnxValue value = result.get(name).orElse(null);
            long[] sizes = value instanceof OnnxTensor ? ((OnnxTensor) value).getInfo().getShape() : new long[0];
            if (sizes.length != 4 || sizes[2] != length) {
                result.close();
                throw new EngineException(
                        "ONNX Runtime made the cache " + name + " for " + (sizes.length == 4 ? sizes[2] : 0)
                                + " tokens where " + length + " were asked for; this model cannot be run here.");
            }
            grown.add((OnnxTensor) value);
        }
        replace(grown);
        capacity = length;
    }

    void close() {
        replace(Collections.<OnnxTensor>emptyList());
        capacity = 0;
    }

    private void replace(List<OnnxTensor> with) {
        closeAll(buffers);
        buffers.clear();
        buffers.addAll(with);
        inputs.clear();
        outputs.clear();
        for (int i = 0; i < with.size(); i++) {
            inputs.put(shape.past.get(i), with.get(i));
            outputs.put(shape.present.get(i), with.get(i));
        }
    }

    private static void closeAll(List<OnnxTensor> tensors) {
        for (OnnxTensor tensor : tensors) {
            tensor.close();
        }
    }
}
