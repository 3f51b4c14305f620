package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.BitSet;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;

/** Byte pair encoding over bytes, as GPT-2 introduced it. */
final class ByteLevelBpe implements Tokenizer {
    private static final int CACHED = 8192;
    private static final int CACHED_LENGTH = 64;
    private static final byte[] NOTHING = {};

    private final AddedTokens added;
    private final PreTokenizer pre;
    private final Map<String, Integer> vocab = new HashMap<>();
    private final Map<Integer, String> tokens = new HashMap<>();
    /** (left id, right id) -> (rank, id of the two together). */
    private final Map<Long, Long> merges = new HashMap<>();
    private final int[] byteIds = new int[256];
    private final boolean ignoreMerges;
    private final Map<String, int[]> cache = new LinkedHashMap<String, int[]>(256, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, int[]> eldest) {
            return size() > CACHED;
        }
    };

    ByteLevelBpe(Fields tokenizer) throws BundleException {
        if (tokenizer.has("normalizer")) {
            Fields normalizer = tokenizer.object("normalizer");
            throw normalizer.wrong("type", "is " + normalizer.string("type") + "; with BPE this app has none");
        }
        added = new AddedTokens(tokenizer, false);
        pre = new PreTokenizer(tokenizer);
        Fields model = tokenizer.object("model");
        for (String option : new String[] {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
            Object value = model.map().get(option);
            if (value != null && !value.equals("")) {
                throw model.wrong(option, "is " + value + ", which this app does not do");
            }
        }
        if (model.has("byte_fallback") && model.bool("byte_fallback")) {
            throw model.wrong("byte_fallback", "is true, which this app does not do");
        }
        ignoreMerges = model.has("ignore_merges") && model.bool("ignore_merges");
        readVocab(model);
        readMerges(model);
    }

    private void readVocab(Fields model) throws BundleException {
        for (Map.Entry<?, ?> entry : model.object("vocab").map().entrySet()) {
            if (!(entry.getValue() instanceof Long) || (Long) entry.getValue() >> 24 != 0) {
                throw model.wrong("vocab", "gives " + entry.getKey() + " the id " + entry.getValue());
            }
            int id = ((Long) entry.getValue()).intValue();
            vocab.put((String) entry.getKey(), id);
            tokens.put(id, (String) entry.getKey());
        }
        for (int b = 0; b < 256; b++) {
            Integer id = vocab.get(String.valueOf(ByteAlphabet.charOf(b)));
            if (id == null && model.has("unk_token")) {
                throw model.wrong("vocab", "lacks byte " + b + " and has an unk_token, which this app does not do");
            }
            byteIds[b] = id == null ? -1 : id;
        }
    }

    private void readMerges(Fields model) throws BundleException {
        List<?> list = model.list("merges");
        for (int rank = 0; rank < list.size(); rank++) {
            Object merge = list.get(rank);
            Object left;
            Object right;
            if (merge instanceof String && ((String) merge).indexOf(' ') > 0) {
                int space = ((String) merge).indexOf(' ');
                left = ((String) merge).substring(0, space);
                right = ((String) merge).substring(space + 1);
            } else if (merge instanceof List && ((List<?>) merge).size() == 2) {
                left = ((List<?>) merge).get(0);
                right = ((List<?>) merge).get(1);
            } else {
                throw model.wrong("merges[" + rank + "]", "is not a pair of tokens");
            }
            Integer leftId = vocab.get(left);
            Integer rightId = vocab.get(right);
            Integer both = vocab.get("" + left + right);
            if (leftId == null || rightId == null || both == null) {
                throw model.wrong("merges[" + rank + "]", "(" + left + " " + right + ") is not in the vocabulary");
            }
            merges.put(pair(leftId, rightId), pair(rank, both));
        }
    }

    @Override
    public int[] encode(String text) {
        return encode(text, null);
    }

    @Override
    public synchronized int[] encode(String text, BitSet plain) {
        Ids ids = new Ids();
        for (AddedTokens.Part part : added.split(Ids.wellFormed(text), plain)) {
            if (part.id >= 0) {
                ids.add(part.id);
                continue;
            }
            for (String word : pre.split(part.text)) {
                ids.addAll(word(word));
            }
        }
        return ids.toArray();
    }

    @Override
    public byte[] bytesOf(int id) {
        byte[] special = added.bytesOf(id);
        if (special != null) {
            return special;
        }
        String token = tokens.get(id);
        return token == null ? NOTHING : ByteAlphabet.bytes(token);
    }

    @Override
    public boolean isSpecial(int id) {
        return added.isSpecial(id);
    }

    private int[] word(String word) {
        int[] ids = cache.get(word);
        if (ids == null) {
            ids = merged(word.getBytes(StandardCharsets.UTF_8));
            if (word.length() <= CACHED_LENGTH) {
                cache.put(word, ids);
            }
        }
        return ids;
    }

    /** Merges the pair of least rank, the leftmost of equals, until there is none. */
    private int[] merged(byte[] bytes) {
        if (ignoreMerges) {
            Integer whole = vocab.get(ByteAlphabet.text(bytes));
            if (whole != null) {
                return new int[] {whole};
            }
        }
        int n = 0;
        int[] ids = new int[bytes.length];
        for (byte b : bytes) {
            if (byteIds[b & 255] >= 0) {  // a byte that the vocabulary lacks is left out, as in the original
                ids[n++] = byteIds[b & 255];
            }
        }
        int[] next = new int[n];
        int[] previous = new int[n];
        PriorityQueue<Long> queue = new PriorityQueue<>();  // (rank, place of the left one)
        for (int i = 0; i < n; i++) {
            next[i] = i + 1;
            previous[i] = i - 1;
            push(queue, ids, i, i + 1, n);
        }
        while (!queue.isEmpty()) {
            long top = queue.poll();
            int left = (int) top;
            int right = ids[left] < 0 ? n : next[left];
            Long merge = right < n ? merges.get(pair(ids[left], ids[right])) : null;
            if (merge == null || merge >> 32 != top >> 32) {
                continue;  // one of the two has been merged meanwhile
            }
            ids[left] = merge.intValue();
            ids[right] = -1;
            next[left] = next[right];
            if (next[right] < n) {
                previous[next[right]] = left;
            }
            push(queue, ids, left, next[left], n);
            if (previous[left] >= 0) {
                push(queue, ids, previous[left], left, n);
            }
        }
        Ids result = new Ids();
        for (int i = 0; i < n; i = next[i]) {
            result.add(ids[i]);
        }
        return result.toArray();
    }

    private void push(PriorityQueue<Long> queue, int[] ids, int left, int right, int n) {
        Long merge = right < n ? merges.get(pair(ids[left], ids[right])) : null;
        if (merge != null) {
            queue.add(pair((int) (merge >> 32), left));
        }
    }

    private static long pair(int high, int low) {
        return (long) high << 32 | low;
    }
}
