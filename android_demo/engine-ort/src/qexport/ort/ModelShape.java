package qexport.ort;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import qexport.core.EngineException;
import qexport.core.TextModel;

/** The inputs and outputs of a language model's graph, checked once against what its bundle says. */
final class ModelShape {
    static final String IDS = "input_ids";
    static final String MASK = "attention_mask";
    static final String LOGITS = "logits";

    /** Names of the caches, keys and values layer by layer; the n-th output continues the n-th input. */
    final List<String> past;

    final List<String> present;

    /** float32, float16 or int8. */
    final OnnxJavaType cacheType;

    private ModelShape(List<String> past, List<String> present, OnnxJavaType cacheType) {
        this.past = Collections.unmodifiableList(past);
        this.present = Collections.unmodifiableList(present);
        this.cacheType = cacheType;
    }

    /** Reads the session's inputs and outputs. Throws EngineException where they are not the bundle's. */
    static ModelShape of(OrtSession session, TextModel text) throws OrtException, EngineException {
        Map<String, NodeInfo> inputs = session.getInputInfo();
        Map<String, NodeInfo> outputs = session.getOutputInfo();
        check(inputs, "input", IDS, OnnxJavaType.INT64, -1, -1);
        check(inputs, "input", MASK, OnnxJavaType.INT64, -1, -1);
        check(outputs, "output", LOGITS, OnnxJavaType.FLOAT, -1, 1, text.vocab());
        List<String> past = new ArrayList<>();
        List<String> present = new ArrayList<>();
        OnnxJavaType type = tensor(inputs, "input", "past_key_values.0.key").type;
        for (int layer = 0; layer < text.layers(); layer++) {
            for (String part : new String[] {".key", ".value"}) {
                past.add("past_key_values." + layer + part);
                present.add("present." + layer + part);
                String name = past.get(past.size() - 1);
                check(inputs, "input", name, type, -1, text.kvHeads(), -1, text.headSize());
                refuseWindow(tensor(inputs, "input", name), name);
                name = present.get(present.size() - 1);
                check(outputs, "output", name, type, -1, text.kvHeads(), -1, text.headSize());
            }
        }
        refuseMore(inputs, 2 + past.size(), "inputs", text);
        refuseMore(outputs, 1 + present.size(), "outputs", text);
        return new ModelShape(past, present, type);
    }

    /** `wanted`: the size of each dimension, -1 where it changes from call to call. */
    private static void check(
            Map<String, NodeInfo> found, String side, String name, OnnxJavaType type, long... wanted)
            throws EngineException {
        TensorInfo info = tensor(found, side, name);
        if (info.type != type || !Arrays.equals(info.getShape(), wanted)) {
            throw new EngineException(
                    "The model's " + side + " " + name + " is " + info.type + " " + Arrays.toString(info.getShape())
                            + ", the bundle says " + type + " " + Arrays.toString(wanted)
                            + " (-1: any size); bundle the model again with qexport bundle.");
        }
    }

    private static TensorInfo tensor(Map<String, NodeInfo> found, String side, String name) throws EngineException {
        NodeInfo node = found.get(name);
        if (node == null) {
            throw new EngineException(
                    "The model has no " + side + " " + name + "; it is no language model that qexport wrote, or has"
                            + " fewer layers than its bundle says.");
        }
        if (!(node.getInfo() instanceof TensorInfo)) {
            throw new EngineException("The model's " + side + " " + name + " is no tensor.");
        }
        return (TensorInfo) node.getInfo();
    }

    /** Caches as short as a sliding window have a fixed length, which a bundle of schema 1 cannot say. */
    private static void refuseWindow(TensorInfo info, String name) throws EngineException {
        String[] names = info.getDimensionNames();
        if (names.length > 2 && "sliding_window_slots".equals(names[2])) {
            throw new EngineException(
                    "The model's cache " + name + " is as short as its sliding window, which the app does not run"
                            + " yet; export it with min_runtime below 1.29 in the recipe's target.");
        }
    }

    private static void refuseMore(Map<String, NodeInfo> found, int wanted, String side, TextModel text)
            throws EngineException {
        if (found.size() != wanted) {
            throw new EngineException(
                    "The model has " + found.size() + " " + side + ", a language model of " + text.layers()
                            + " layers has " + wanted + "; bundle the model again with qexport bundle.");
        }
    }
}
