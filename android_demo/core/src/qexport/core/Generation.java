package qexport.core;

import java.util.Arrays;

/** Answers prompts with one engine; what the engine holds of the conversation already is not computed again. */
public final class Generation {
    /** Prompts go to the engine in parts of this many tokens, so that they can be cancelled. */
    static final int PART = 256;

    /** Hears an answer as it grows; called on the thread that runs it. */
    public interface Listener {
        /** So many of the prompt's new tokens are computed. */
        void prefilled(int done, int all);

        /** More of the answer's text. */
        void text(String piece);
    }

    private final Engine engine;
    private final Tokenizer tokenizer;
    private final int[] stopIds;
    private final float[] logits;
    private final Ids held = new Ids();
    private final Object change = new Object();
    private volatile boolean cancelled;
    private volatile int pauseMillis;

    /** For an engine of the given model; the engine should be used through this object only. */
    public Generation(Engine engine, TextModel model, Tokenizer tokenizer) {
        this.engine = engine;
        this.tokenizer = tokenizer;
        stopIds = model.stopIds();
        logits = new float[model.vocab()];
    }

    /** Ends the answer that is running, from any thread; does nothing to later ones. */
    public void cancel() {
        synchronized (change) {
            cancelled = true;
            change.notifyAll();
        }
    }

    /** From now on rests so long after each token, which saves energy and heat; from any thread. 0: never. */
    public void pause(int millis) {
        if (millis < 0) {
            throw new IllegalArgumentException("The pause is " + millis + " ms; choose 0 (none) or more");
        }
        pauseMillis = millis;
    }

    /** Answers the prompt until a stop token, the settings' most tokens, a full context or {@link #cancel}. */
    public Statistics run(int[] prompt, Settings settings, Listener listener) throws EngineException {
        cancelled = false;
        if (prompt.length == 0 || prompt.length >= engine.context()) {
            throw new EngineException("The prompt has " + prompt.length + " tokens, the engine takes 1 to "
                    + (engine.context() - 1) + "; " + (prompt.length == 0 ? "write something" : "shorten it"));
        }
        Sampler sampler = new Sampler(settings);
        Utf8Stream utf8 = new Utf8Stream();
        long start = System.nanoTime();
        int fed = prefill(prompt, listener);
        if (fed < 0) {
            return new Statistics(prompt.length, 0, 0, System.nanoTime() - start, 0, Statistics.End.CANCELLED);
        }
        int made = 0;
        Statistics.End end = null;
        int token = sampler.next(logits);
        long first = System.nanoTime();
        while (end == null) {
            if (isStop(token)) {
                end = Statistics.End.STOP;
                break;
            }
            made++;
            if (!tokenizer.isSpecial(token)) {
                say(utf8.add(tokenizer.bytesOf(token)), listener);
            }
            if (cancelled || made < settings.maxNewTokens() && rest()) {
                end = Statistics.End.CANCELLED;
            } else if (made >= settings.maxNewTokens()) {
                end = Statistics.End.LENGTH;
            } else if (engine.past() >= engine.context()) {
                end = Statistics.End.CONTEXT;
            } else {
                feed(new int[] {token});
                token = sampler.next(logits);
            }
        }
        say(utf8.finish(), listener);
        return new Statistics(prompt.length, fed, made, first - start, System.nanoTime() - first, end);
    }

    /** Forgets the conversation. */
    public void reset() {
        engine.reset();
        held.clear();
    }

    /** True when the pause was cut short: cancelled. */
    private boolean rest() {
        long end = System.nanoTime() + pauseMillis * 1_000_000L;
        synchronized (change) {
            for (long left = end - System.nanoTime(); left > 0 && !cancelled; left = end - System.nanoTime()) {
                try {
                    change.wait(left / 1_000_000 + 1);
                } catch (InterruptedException e) {
                    Thread.currentThread().interrupt();  // who ends the thread ends the answer
                    cancelled = true;
                }
            }
        }
        return cancelled;
    }

    /** How many tokens were fed; -1: cancelled. */
    private int prefill(int[] prompt, Listener listener) throws EngineException {
        int from = engine.past() == held.size() ? held.beginningOf(prompt) : -1;
        if (from < 0 || from == prompt.length) {  // the last token's logits are needed, so it cannot be held already
            reset();
            from = 0;
        }
        for (int at = from; at < prompt.length; at += PART) {
            if (cancelled) {
                return -1;
            }
            int to = Math.min(prompt.length, at + PART);
            feed(Arrays.copyOfRange(prompt, at, to));
            listener.prefilled(to - from, prompt.length - from);
        }
        return prompt.length - from;
    }

    private void feed(int[] ids) throws EngineException {
        boolean done = false;
        try {
            engine.feed(ids, logits);
            held.addAll(ids);
            done = true;
        } finally {
            if (!done) {
                reset();  // who knows what it holds now
            }
        }
    }

    private boolean isStop(int token) {
        for (int stop : stopIds) {
            if (token == stop) {
                return true;
            }
        }
        return false;
    }

    private static void say(String text, Listener listener) {
        if (!text.isEmpty()) {
            listener.text(text);
        }
    }
}
