package qexport.core;

/** A text is not JSON; the message says at which line and column, and what is wrong. */
public final class JsonException extends Exception {
    private static final long serialVersionUID = 1L;

    public JsonException(String message) {
        super(message);
    }
}
