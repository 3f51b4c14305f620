package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;

/**
 * Byte pair encoding, over bytes in {@link ByteAlphabet} as GPT-2 introduced it, or over characters as SentencePiece
 * does it, where those that the vocabulary lacks become bytes or the unknown token.
 */
final class Bpe implements WordModel {
    private static final int CACHED = 8192;
    private static final int CACHED_LENGTH = 64;

    private final Vocab vocab;
    private final boolean byteLevel;
    private final Merges merges;
    private final int[] byRank;
    private final boolean ignoreMerges;
    /** Null: no byte stands for itself. */
    private final int[] byteIds;
    /** -1: what is unknown is left out. */
    private final int unknown;
    private final boolean fuseUnknown;
    private final Map<String, int[]> cache = new LinkedHashMap<String, int[]>(256, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, int[]> eldest) {
            return size() > CACHED;
        }
    };

    Bpe(Fields model, boolean byteLevel) throws BundleException {
        for (String option : new String[] {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
            Object value = model.map().get(option);
            if (value != null && !value.equals("")) {
                throw model.wrong(option, "is " + value + ", which this app does not do");
            }
        }
        this.byteLevel = byteLevel;
        vocab = Vocab.of(model);
        ignoreMerges = model.has("ignore_merges") && model.bool("ignore_merges");
        fuseUnknown = model.has("fuse_unk") && model.bool("fuse_unk");
        unknown = model.has("unk_token") ? vocab.named(model, "unk_token") : -1;
        boolean fallback = model.has("byte_fallback") && model.bool("byte_fallback");
        byteIds = fallback ? vocab.bytes() : null;
        if (fallback && byteIds == null) {
            throw model.wrong("byte_fallback", "is true, but the vocabulary lacks the token of a byte");
        }
        List<?> pairs = model.list("merges");
        merges = new Merges(pairs.size());
        byRank = new int[pairs.size()];
        readMerges(model, pairs);
    }

    private void readMerges(Fields model, List<?> list) throws BundleException {
        for (int rank = 0; rank < list.size(); rank++) {
            Object merge = list.get(rank);
            int space = merge instanceof String ? ((String) merge).indexOf(' ') : -1;
            String left;
            String right;
            if (space > 0) {
                left = ((String) merge).substring(0, space);
                right = ((String) merge).substring(space + 1);
            } else if (merge instanceof List && ((List<?>) merge).size() == 2) {
                left = String.valueOf(((List<?>) merge).get(0));
                right = String.valueOf(((List<?>) merge).get(1));
            } else {
                throw model.wrong("merges[" + rank + "]", "is not a pair of tokens");
            }
            Integer leftId = vocab.id(left);
            Integer rightId = vocab.id(right);
            Integer both = vocab.id(left + right);
            if (leftId == null || rightId == null || both == null) {
                throw model.wrong("merges[" + rank + "]", "(" + left + " " + right + ") is not in the vocabulary");
            }
            merges.put(leftId, rightId, rank, both);
            byRank[rank] = both;
        }
    }

    @Override
    public void encode(String word, Ids ids) {
        int[] known = cache.get(word);
        if (known == null) {
            known = merged(word);
            if (word.length() <= CACHED_LENGTH) {
                cache.put(word, known);
            }
        }
        ids.addAll(known);
    }

    @Override
    public String token(int id) {
        return vocab.token(id);
    }

    @Override
    public byte[] bytes(String token) {
        return byteLevel ? ByteAlphabet.bytes(token) : Vocab.piece(token, byteIds != null);
    }

    /** A token for each character, before any merge. */
    private int[] characters(String word) {
        Ids ids = new Ids();
        int waiting = -1;  // an unknown token waits for the next known one: others may join it, as in the original
        for (int at = 0; at < word.length();) {
            int after = word.offsetByCodePoints(at, 1);
            String character = word.substring(at, after);
            Integer id = vocab.id(character);
            at = after;
            if (id == null && byteIds != null) {
                for (byte b : character.getBytes(StandardCharsets.UTF_8)) {
                    ids.add(byteIds[b & 255]);
                }
            } else if (id == null) {
                if (waiting >= 0 && !fuseUnknown) {
                    ids.add(waiting);
                }
                waiting = unknown;
            } else {
                if (waiting >= 0) {
                    ids.add(waiting);
                    waiting = -1;
                }
                ids.add(id);
            }
        }
        if (waiting >= 0) {
            ids.add(waiting);
        }
        return ids.toArray();
    }

    /** Merges the pair of least rank, the leftmost of equals, until there is none. */
    private int[] merged(String word) {
        Integer whole = ignoreMerges ? vocab.id(word) : null;
        if (whole != null) {
            return new int[] {whole};
        }
        int[] ids = characters(word);
        int n = ids.length;
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
            long merge = right < n ? merges.get(ids[left], ids[right]) : Merges.NONE;
            if (merge == Merges.NONE || (int) merge != byRank[(int) (top >> 32)]) {
                continue;  // one of the two has been merged meanwhile, and they do not give the same token still
            }
            ids[left] = (int) merge;
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
        long merge = right < n ? merges.get(ids[left], ids[right]) : Merges.NONE;
        if (merge != Merges.NONE) {
            queue.add(Merges.pair((int) (merge >> 32), left));
        }
    }
}
