package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Texts, found by meaning: those whose vectors point most nearly where the question's does. */
public final class Search {
    /** A text that was found. */
    public static final class Hit {
        private final String text;
        private final double score;

        Hit(String text, double score) {
            this.text = text;
            this.score = score;
        }

        /** The text, whole. */
        public String text() {
            return text;
        }

        /** The cosine of its vector and the question's: 1 at most. */
        public double score() {
            return score;
        }
    }

    private final EncoderTask task;
    private final List<String> texts = new ArrayList<>();
    private final List<float[]> vectors = new ArrayList<>();

    /** Begins with no text. */
    public Search(EncoderTask task) {
        this.task = task;
    }

    /** Adds a text; one that the model refuses is not added. */
    public synchronized void add(String text) throws EngineException {
        float[] vector = task.run(task.model().documentPrefix(), text);
        texts.add(text);
        vectors.add(vector);
    }

    /** How many texts there are. */
    public synchronized int size() {
        return texts.size();
    }

    /** Forgets all texts. */
    public synchronized void clear() {
        texts.clear();
        vectors.clear();
    }

    /** The best `most` texts, best first; of equals the one that was added first. */
    public synchronized List<Hit> find(String query, int most) throws EngineException {
        if (most < 1) {
            throw new IllegalArgumentException("Hits: " + most + "; ask for at least 1");
        }
        float[] wanted = task.run(task.model().queryPrefix(), query);
        List<Hit> hits = new ArrayList<>();
        for (int i = 0; i < texts.size(); i++) {
            hits.add(new Hit(texts.get(i), cosine(wanted, vectors.get(i))));
        }
        Collections.sort(hits, (one, other) -> Double.compare(other.score(), one.score()));
        return new ArrayList<>(hits.subList(0, Math.min(most, hits.size())));
    }

    /** Of the angle between two vectors; 0 where one has no direction. */
    static double cosine(float[] one, float[] other) {
        double product = 0;
        double left = 0;
        double right = 0;
        for (int i = 0; i < one.length; i++) {
            product += (double) one[i] * other[i];
            left += (double) one[i] * one[i];
            right += (double) other[i] * other[i];
        }
        return left == 0 || right == 0 ? 0 : product / Math.sqrt(left * right);
    }
}
