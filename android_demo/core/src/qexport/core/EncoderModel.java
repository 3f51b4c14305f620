package qexport.core;

import java.util.Collections;
import java.util.HashSet;
import java.util.List;

/** What a bundle for embeddings or for classification says of its model. */
public final class EncoderModel {
    private static final int MOST = 1 << 24;

    private final String tokenizer;
    private final int maxTokens;
    private final int vocab;
    private final int width;
    private final String output;
    private final boolean normalised;
    private final List<String> labels;
    private final String prefix;
    private final String queryPrefix;
    private final String documentPrefix;

    private EncoderModel(Fields encoder, boolean classifies) throws BundleException {
        tokenizer = encoder.string("tokenizer");
        maxTokens = encoder.integer("max_tokens", 1, MOST);
        vocab = encoder.integer("vocab", 1, MOST);
        width = encoder.integer("width", 1, MOST);
        output = encoder.string("output");
        normalised = encoder.bool("normalised");
        labels = Collections.unmodifiableList(encoder.strings("labels"));
        prefix = encoder.string("prefix");
        queryPrefix = encoder.string("query_prefix");
        documentPrefix = encoder.string("document_prefix");
        int wanted = classifies ? width : 0;
        if (labels.size() != wanted) {
            throw encoder.wrong("labels", "holds " + labels.size() + " names, not " + wanted);
        }
        if (new HashSet<>(labels).size() != wanted) {
            throw encoder.wrong("labels", "holds a name twice");
        }
    }

    static EncoderModel of(Fields encoder, boolean classifies) throws BundleException {
        return new EncoderModel(encoder, classifies);
    }

    /** The tokenizer's file. */
    public String tokenizer() {
        return tokenizer;
    }

    /** Most tokens of a text, special ones among them; what is longer is cut. */
    public int maxTokens() {
        return maxTokens;
    }

    /** How many tokens the model knows. */
    public int vocab() {
        return vocab;
    }

    /** Numbers of a vector, or how many labels there are. */
    public int width() {
        return width;
    }

    /** The graph's output that holds them; the pooling of a text's tokens to one vector is part of the graph. */
    public String output() {
        return output;
    }

    /** True when vectors have length 1. */
    public boolean normalised() {
        return normalised;
    }

    /** The labels' names in the order of the logits; empty where the model gives vectors. */
    public List<String> labels() {
        return labels;
    }

    /** What stands before a text of no particular use, mostly nothing. */
    public String prefix() {
        return prefix;
    }

    /** What stands before a question that is searched for. */
    public String queryPrefix() {
        return queryPrefix;
    }

    /** What stands before a text that can be found. */
    public String documentPrefix() {
        return documentPrefix;
    }
}
