package qexport.core;

import java.nio.charset.StandardCharsets;
import java.util.List;

/** SentencePiece's unigram model: of all ways to cut a word into tokens the likeliest one. */
final class Unigram implements WordModel {
    private static final double UNKNOWN_PENALTY = 10;

    private final Vocab vocab = new Vocab();
    private final double[] scores;
    private final int unknown;
    private final double unknownScore;
    private final int[] byteIds;
    private int longest;

    Unigram(Fields model) throws BundleException {
        List<?> list = model.list("vocab");
        scores = new double[list.size()];
        double least = Double.POSITIVE_INFINITY;
        for (int id = 0; id < scores.length; id++) {
            Object pair = list.get(id);
            boolean right = pair instanceof List && ((List<?>) pair).size() == 2
                    && ((List<?>) pair).get(0) instanceof String && ((List<?>) pair).get(1) instanceof Number;
            if (!right) {
                throw model.wrong("vocab[" + id + "]", "is not a pair of a token and its score");
            }
            String token = (String) ((List<?>) pair).get(0);
            vocab.add(token, id);
            scores[id] = ((Number) ((List<?>) pair).get(1)).doubleValue();
            least = Math.min(least, scores[id]);
            longest = Math.max(longest, token.length());
        }
        if (!model.has("unk_id")) {
            throw model.wrong("unk_id", "is null, which this app does not do");
        }
        unknown = model.integer("unk_id", 0, scores.length - 1);
        unknownScore = least - UNKNOWN_PENALTY;
        boolean fallback = model.has("byte_fallback") && model.bool("byte_fallback");
        byteIds = fallback ? vocab.bytes() : null;
        if (fallback && byteIds == null) {
            throw model.wrong("byte_fallback", "is true, but the vocabulary lacks the token of a byte");
        }
    }

    @Override
    public void encode(String word, Ids ids) {
        int[] starts = new int[word.length() + 1];  // of the best last token of each beginning
        int[] best = new int[word.length() + 1];  // that token, -1: none yet
        double[] reached = new double[word.length() + 1];
        java.util.Arrays.fill(best, -1);
        for (int at = 0; at < word.length();) {
            int next = word.offsetByCodePoints(at, 1);
            boolean single = false;
            for (int end = at + 1; end <= word.length() && end - at <= longest; end++) {
                Integer id = vocab.id(word.substring(at, end));
                if (id != null) {
                    reach(at, end, id, reached[at] + scores[id], starts, best, reached);
                    single |= end == next;
                }
            }
            if (!single) {
                reach(at, next, unknown, reached[at] + unknownScore, starts, best, reached);
            }
            at = next;
        }
        write(word, starts, best, ids);
    }

    private static void reach(int at, int end, int id, double score, int[] starts, int[] best, double[] reached) {
        if (best[end] < 0 || score > reached[end]) {
            starts[end] = at;
            best[end] = id;
            reached[end] = score;
        }
    }

    /** Follows the best path from its end; neighbouring unknown tokens are one. */
    private void write(String word, int[] starts, int[] best, Ids ids) {
        Ids backwards = new Ids();
        for (int end = word.length(); end > 0;) {
            int start = starts[end];
            if (best[end] != unknown) {
                backwards.add(best[end]);
            } else {
                while (start > 0 && best[start] == unknown) {
                    start = starts[start];
                }
                unknown(word.substring(start, end), backwards);
            }
            end = start;
        }
        int[] all = backwards.toArray();
        for (int i = all.length - 1; i >= 0; i--) {
            ids.add(all[i]);
        }
    }

    private void unknown(String text, Ids backwards) {
        if (byteIds == null) {
            backwards.add(unknown);
            return;
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        for (int i = bytes.length - 1; i >= 0; i--) {
            backwards.add(byteIds[bytes[i] & 255]);
        }
    }

    @Override
    public String token(int id) {
        return vocab.token(id);
    }

    @Override
    public byte[] bytes(String token) {
        return Vocab.piece(token, byteIds != null);
    }
}
