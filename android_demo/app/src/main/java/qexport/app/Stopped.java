package qexport.app;

/** A person ended the work. Unchecked, so that no fallback takes it for a failure and goes on with another model. */
final class Stopped extends RuntimeException {
    private static final long serialVersionUID = 1L;

    Stopped() {
        super("stopped", null, false, false);
    }
}
