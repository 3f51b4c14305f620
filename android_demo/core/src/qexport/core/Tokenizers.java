package qexport.core;

/** Reads tokenizer.json of Hugging Face's tokenizers library. */
public final class Tokenizers {
    private Tokenizers() {
    }

    /**
     * The tokenizer that the file describes. BPE over bytes gives the text's own ids only; WordPiece puts the ids of
     * its template ([CLS], [SEP]) around them. Parts that this app does not have are refused by name.
     */
    public static Tokenizer parse(String tokenizerJson) throws BundleException {
        Fields tokenizer = Fields.of("tokenizer.json", tokenizerJson,
                "export a model whose tokenizer is byte-level BPE or WordPiece");
        Fields model = tokenizer.object("model");
        String type = model.has("type") ? model.string("type") : model.has("merges") ? "BPE" : "unnamed";
        switch (type) {
            case "BPE":
                return new ByteLevelBpe(tokenizer);
            case "WordPiece":
                return new WordPiece(tokenizer);
            default:
                throw model.wrong("type", "is " + type + "; this app has BPE and WordPiece");
        }
    }
}
