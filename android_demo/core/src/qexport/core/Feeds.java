package qexport.core;

/** What every engine refuses before it computes. */
public final class Feeds {
    private Feeds() {
    }

    /**
     * Throws EngineException where the ids cannot follow those that are held, or are not the model's.
     *
     * @param ids to be fed
     * @param past tokens that are held
     * @param context most tokens that can be
     * @param vocab the model's tokens, and its logits
     * @param into where the logits go
     */
    public static void check(int[] ids, int past, int context, int vocab, float[] into) throws EngineException {
        if (ids.length == 0 || past + ids.length > context) {
            throw new EngineException(ids.length + " tokens after " + past + " do not fit: at least 1, and at most "
                    + context + " together; shorten the text or start a new chat.");
        }
        if (into.length < vocab) {
            throw new EngineException("Room for " + into.length + " logits, the model gives " + vocab + ".");
        }
        check(ids, vocab);
    }

    /** Throws EngineException for an id that a model of so many tokens does not have. */
    public static void check(int[] ids, int vocab) throws EngineException {
        for (int id : ids) {
            if (id < 0 || id >= vocab) {
                throw new EngineException("Token " + id + " is none of the model's 0 to " + (vocab - 1)
                        + "; the tokenizer is another model's.");
            }
        }
    }
}
