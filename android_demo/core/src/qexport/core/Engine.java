package qexport.core;

/** A language model and the tokens that it holds, whichever runtime computes it. */
public interface Engine extends java.io.Closeable {
    /** Takes all of `ids` after what it holds already; logits (vocab floats) of the last one into `logits`. */
    void feed(int[] ids, float[] logits) throws EngineException;

    /** Tokens held. */
    int past();

    /** Most tokens it can hold. */
    int context();

    /** Forgets them. */
    void reset();

    /** The runtime's own version, as it says it. */
    String runtimeVersion();
}
