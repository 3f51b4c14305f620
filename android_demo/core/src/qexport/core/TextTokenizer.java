package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.BitSet;

/** The steps of a tokenizer.json in order: added tokens, normalizer, words, the model's ids, the template. */
final class TextTokenizer implements Tokenizer {
    private static final byte[] NOTHING = {};

    private final AddedTokens added;
    private final PreTokenizer pre;
    private final WordModel model;
    private final Template template;

    TextTokenizer(Fields tokenizer, PreTokenizer pre, WordModel model) throws BundleException {
        added = new AddedTokens(tokenizer, new TextNormalizer(tokenizer));
        this.pre = pre;
        this.model = model;
        template = new Template(tokenizer);
    }

    @Override
    public int[] encode(String text) {
        return template.around(encode(text, null));
    }

    @Override
    public int[] encode(String text, int most) {
        int[] ids = encode(text, null);
        int room = Math.max(0, most - template.size());
        return template.around(ids.length > room ? Arrays.copyOf(ids, room) : ids);
    }

    @Override
    public synchronized int[] encode(String text, BitSet plain) {  // one at a time: the model keeps words
        Ids ids = new Ids();
        for (AddedTokens.Part part : added.split(Ids.wellFormed(text), plain)) {
            if (part.id >= 0) {
                ids.add(part.id);
                continue;
            }
            for (String word : pre.split(part.text, part.start == 0)) {
                model.encode(word, ids);
            }
        }
        return ids.toArray();
    }

    @Override
    public byte[] bytesOf(int id) {
        String content = added.contentOf(id);
        if (content != null && pre.byteLevel()) {
            return content.getBytes(StandardCharsets.UTF_8);  // added tokens are not written in the byte alphabet
        }
        String token = content == null ? model.token(id) : content;
        return token == null ? NOTHING : model.bytes(token);
    }

    @Override
    public boolean isSpecial(int id) {
        return added.isSpecial(id);
    }
}
