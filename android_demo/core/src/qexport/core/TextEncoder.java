package qexport.core;

/** An encoder's graph, whichever runtime computes it: ids of one text to its vector, or to the logits of its labels. */
public interface TextEncoder extends java.io.Closeable {
    /** How many numbers {@link #run} gives. */
    int width();

    /** The vector or the logits of one text (width floats) into `into`. */
    void run(int[] ids, float[] into) throws EngineException;

    /** The runtime's own version, as it says it. */
    String runtimeVersion();
}
