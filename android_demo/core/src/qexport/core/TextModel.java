package qexport.core;

/** What a text-generation bundle says of its model. */
public final class TextModel {
    private static final int MOST = 1 << 24;

    private final String tokenizer;
    private final int context;
    private final int bosId;
    private final boolean addBos;
    private final int[] stopIds;
    private final int vocab;
    private final int layers;
    private final int kvHeads;
    private final int headSize;
    private final ChatFormat chat;

    private TextModel(Fields text) throws BundleException {
        tokenizer = text.string("tokenizer");
        context = text.integer("context", 1, MOST);
        vocab = text.integer("vocab", 1, MOST);
        bosId = text.has("bos_id") ? text.integer("bos_id", 0, vocab - 1) : -1;
        addBos = text.bool("add_bos");
        if (addBos && bosId < 0) {
            throw text.wrong("add_bos", "is true, but bos_id is null");
        }
        stopIds = text.integers("stop_ids", 0, vocab - 1);
        layers = text.integer("layers", 1, 10_000);
        kvHeads = text.integer("kv_heads", 1, 10_000);
        headSize = text.integer("head_size", 1, 100_000);
        chat = text.has("chat") ? ChatFormat.of(text.object("chat")) : null;
    }

    static TextModel of(Fields text) throws BundleException {
        return new TextModel(text);
    }

    /** The tokenizer's file. */
    public String tokenizer() {
        return tokenizer;
    }

    /** Most tokens of prompt and answer together. */
    public int context() {
        return context;
    }

    /** The token that begins a text; -1: none. */
    public int bosId() {
        return bosId;
    }

    /** True when every text begins with {@link #bosId}. */
    public boolean addBos() {
        return addBos;
    }

    /** The tokens that end an answer. */
    public int[] stopIds() {
        return stopIds.clone();
    }

    /** How many logits there are. */
    public int vocab() {
        return vocab;
    }

    /** Layers with a cache. */
    public int layers() {
        return layers;
    }

    /** Key and value heads of each layer. */
    public int kvHeads() {
        return kvHeads;
    }

    /** Numbers in each head. */
    public int headSize() {
        return headSize;
    }

    /** How conversations are written; null: the model completes text only. */
    public ChatFormat chat() {
        return chat;
    }
}
