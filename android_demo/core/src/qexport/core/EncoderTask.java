package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Vectors and labels of texts. */
public final class EncoderTask {
    private final EncoderModel model;
    private final Tokenizer tokenizer;
    private final TextEncoder encoder;

    /** For an encoder of the given model. */
    public EncoderTask(EncoderModel model, Tokenizer tokenizer, TextEncoder encoder) {
        this.model = model;
        this.tokenizer = tokenizer;
        this.encoder = encoder;
    }

    /** The text's vector as the model was exported to give it; a text that is too long is cut ({@link #cut}). */
    public float[] embed(String text) throws EngineException {
        return run(model.prefix(), text);
    }

    /** All labels, the likeliest first. */
    public List<Label> classify(String text) throws EngineException {
        if (model.labels().isEmpty()) {
            throw new EngineException("The model gives vectors, not labels; use it for search");
        }
        float[] logits = run(model.prefix(), text);
        float most = logits[0];
        for (float logit : logits) {
            most = Math.max(most, logit);
        }
        double all = 0;
        for (float logit : logits) {
            all += Math.exp((double) logit - most);
        }
        List<Label> labels = new ArrayList<>();
        for (int i = 0; i < logits.length; i++) {
            labels.add(new Label(model.labels().get(i), Math.exp((double) logits[i] - most) / all));
        }
        Collections.sort(labels, (one, other) -> Double.compare(other.probability(), one.probability()));
        return labels;
    }

    /** True when the model takes only the beginning of the text. */
    public boolean cut(String text) {
        return tokenizer.encode(model.prefix() + text).length > model.maxTokens();
    }

    EncoderModel model() {
        return model;
    }

    /** The ids of a whole input, cut as the model was measured. */
    int[] ids(String input) {
        return tokenizer.encode(input, model.maxTokens());
    }

    /** What the model gives for `prefix` and the text behind it. */
    float[] run(String prefix, String text) throws EngineException {
        if (text.trim().isEmpty()) {
            throw new EngineException("There is no text; write some");
        }
        return run(ids(prefix + text));
    }

    /** What the model gives for an input's ids. */
    float[] run(int[] ids) throws EngineException {
        for (int id : ids) {
            if (id >= model.vocab()) {
                throw new EngineException("The tokenizer gives token " + id + ", the model has " + model.vocab()
                        + "; the two do not belong together: write the folder again with `qexport bundle`");
            }
        }
        float[] result = new float[encoder.width()];
        encoder.run(ids, result);
        for (int i = 0; i < result.length; i++) {
            if (Float.isNaN(result[i]) || Float.isInfinite(result[i])) {
                throw new EngineException("The model gave " + result[i] + " as number " + (i + 1) + " of "
                        + result.length + ": its numbers broke down on this device; run the self-test, or use another"
                        + " variant");
            }
        }
        return result;
    }
}
