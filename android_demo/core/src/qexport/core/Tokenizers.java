package qexport.core;

/** Reads tokenizer.json of Hugging Face's tokenizers library. */
public final class Tokenizers {
    private Tokenizers() {
    }

    /**
     * The tokenizer that the file describes: BPE over bytes or characters, WordPiece or Unigram. Parts that this app
     * does not have are refused by name; truncation and padding are left to the caller.
     */
    public static Tokenizer parse(String tokenizerJson) throws BundleException {
        Fields tokenizer = Fields.of("tokenizer.json", tokenizerJson,
                "export a model whose tokenizer has only parts that this app has");
        PreTokenizer pre = new PreTokenizer(tokenizer);
        return new TextTokenizer(tokenizer, pre, model(tokenizer.object("model"), pre.byteLevel()));
    }

    private static WordModel model(Fields model, boolean byteLevel) throws BundleException {
        String type = type(model);
        switch (type) {
            case "BPE":
                return new Bpe(model, byteLevel);
            case "WordPiece":
                return new WordPiece(model);
            case "Unigram":
                return new Unigram(model);
            default:
                throw model.wrong("type", "is " + type + "; this app has BPE, WordPiece and Unigram");
        }
    }

    /** Old files do not say it. */
    private static String type(Fields model) throws BundleException {
        return model.has("type") ? model.string("type") : model.has("merges") ? "BPE" : "unnamed";
    }
}
