package qexport.ort;

import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import qexport.core.EngineException;
import qexport.core.SpeechModel;

/** The inputs and outputs of a speech model's two graphs, checked once against what its bundle says. */
final class SpeechShape {
    static final String IDS = "input_ids";
    static final String LOGITS = "logits";

    /** Output of the encoder to input of the decoder: keys and values of the sound. */
    final Map<String, String> heard;

    /** Output of the decoder to its own input: those of the tokens. */
    final Map<String, String> written;

    private SpeechShape(Map<String, String> heard, Map<String, String> written) {
        this.heard = Collections.unmodifiableMap(heard);
        this.written = Collections.unmodifiableMap(written);
    }

    /** Reads both sessions' inputs and outputs. Throws EngineException where they are not the bundle's. */
    static SpeechShape of(OrtSession encoder, OrtSession decoder, SpeechModel about)
            throws OrtException, EngineException {
        Ports sound = new Ports(encoder.getInputInfo(), "input");
        Ports encoded = new Ports(encoder.getOutputInfo(), "output");
        Ports inputs = new Ports(decoder.getInputInfo(), "input");
        Ports outputs = new Ports(decoder.getOutputInfo(), "output");
        sound.check(about.input(), OnnxJavaType.FLOAT, -1, about.bins(), about.frames());
        sound.refuseMore(1, "the encoder of a speech model");
        inputs.check(IDS, OnnxJavaType.INT64, -1, -1);
        outputs.check(LOGITS, OnnxJavaType.FLOAT, -1, -1, about.vocab());
        Map<String, String> heard = new LinkedHashMap<>();
        Map<String, String> written = new LinkedHashMap<>();
        for (int layer = 0; layer < about.layers(); layer++) {
            for (String part : new String[] {"key", "value"}) {
                String cross = part + "_cross_" + layer;
                String self = part + "_self_" + layer;
                long positions = inputs.tensor("past_" + cross).getShape()[2];
                inputs.check("past_" + cross, OnnxJavaType.FLOAT, -1, about.heads(), positions, about.headSize());
                encoded.check("present_" + cross, OnnxJavaType.FLOAT, -1, about.heads(), positions, about.headSize());
                heard.put("present_" + cross, "past_" + cross);
                inputs.check("past_" + self, OnnxJavaType.FLOAT, -1, about.heads(), -1, about.headSize());
                outputs.check("present_" + self, OnnxJavaType.FLOAT, -1, about.heads(), -1, about.headSize());
                written.put("present_" + self, "past_" + self);
            }
        }
        String whose = "the decoder of " + about.layers() + " layers";
        inputs.refuseMore(1 + heard.size() + written.size(), whose);
        outputs.refuseMore(1 + written.size(), whose);
        return new SpeechShape(heard, written);
    }
}
