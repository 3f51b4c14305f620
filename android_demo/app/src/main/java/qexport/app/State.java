package qexport.app;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * A value that any thread sets and pages show. Listeners hear on the main thread, the newest value only: a page that is
 * slower than the model misses steps, not the end.
 */
final class State<T> {
    /** Hears of new values. */
    interface Listener<T> {
        void changed(T value);
    }

    private final Executor main;
    private final List<Listener<T>> listeners = new ArrayList<>();  // of the main thread
    private final AtomicBoolean told = new AtomicBoolean(true);
    private volatile T value;

    State(Executor main, T first) {
        this.main = main;
        value = first;
    }

    T get() {
        return value;
    }

    void set(T next) {
        value = next;
        if (told.compareAndSet(true, false)) {
            main.execute(this::tell);
        }
    }

    /** Hears the present value at once, and later ones until {@link #forget}; on the main thread. */
    void listen(Listener<T> listener) {
        listeners.add(listener);
        listener.changed(value);
    }

    void forget(Listener<T> listener) {
        listeners.remove(listener);
    }

    private void tell() {
        told.set(true);
        for (Listener<T> listener : new ArrayList<>(listeners)) {
            if (listeners.contains(listener)) {  // one that was called before may have taken it away
                listener.changed(value);
            }
        }
    }
}
