package qexport.core;

/** A speech model: what it heard last, and the tokens of its transcript that it holds. */
public interface SpeechEngine extends Engine {
    /** Hears log-mel features, bins × frames as {@link SpeechModel} gives them; forgets all tokens. */
    void listen(float[] features) throws EngineException;

    /** Stops what another thread is in: it throws EngineException soon after. Does nothing when there is none. */
    void cancel();
}
