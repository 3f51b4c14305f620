package qexport.ort;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
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
        Ports inputs = new Ports(session.getInputInfo(), "input");
        Ports outputs = new Ports(session.getOutputInfo(), "output");
        inputs.check(IDS, OnnxJavaType.INT64, -1, -1);
        inputs.check(MASK, OnnxJavaType.INT64, -1, -1);
        outputs.check(LOGITS, OnnxJavaType.FLOAT, -1, 1, text.vocab());
        List<String> past = new ArrayList<>();
        List<String> present = new ArrayList<>();
        OnnxJavaType type = inputs.tensor("past_key_values.0.key").type;
        for (int layer = 0; layer < text.layers(); layer++) {
            for (String part : new String[] {".key", ".value"}) {
                past.add("past_key_values." + layer + part);
                present.add("present." + layer + part);
                String name = past.get(past.size() - 1);
                inputs.check(name, type, -1, text.kvHeads(), -1, text.headSize());
                refuseWindow(inputs.tensor(name), name);
                outputs.check(present.get(present.size() - 1), type, -1, text.kvHeads(), -1, text.headSize());
            }
        }
        String whose = "a language model of " + text.layers() + " layers";
        inputs.refuseMore(2 + past.size(), whose);
        outputs.refuseMore(1 + present.size(), whose);
        return new ModelShape(past, present, type);
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
}
