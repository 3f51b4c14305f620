package qexport.host;

import java.io.IOException;
import java.io.PrintStream;
import java.util.Arrays;
import java.util.Locale;
import qexport.core.BundleException;
import qexport.core.Engine;
import qexport.core.EngineException;
import qexport.et.EtEngine;
import qexport.ort.OrtEngine;

/** What an engine says to what it must refuse, and whether it goes on as if nothing had been: as JSON. */
final class Probing {
    private static final int EACH_MILLIS = 20;

    private final Engine engine;
    private final PrintStream out;
    private final int vocab;
    private final float[] logits;

    private Probing(Engine engine, int vocab, PrintStream out) {
        this.engine = engine;
        this.vocab = vocab;
        this.out = out;
        logits = new float[vocab];
    }

    static void run(Opened opened, PrintStream out) throws IOException, BundleException, EngineException {
        Engine engine = opened.engine();
        Probing probing = new Probing(engine, opened.bundle.text().vocab(), out);
        out.printf("{\"version\": %s", Main.quoted(engine.runtimeVersion()));
        probing.refused();
        probing.again();
        probing.tell("otherThreads", () -> opened.with(opened.threads + 1).close());
        int[] prompt = probing.ids(engine.context());
        probing.interrupted("cancelled", prompt, engine instanceof EtEngine
                ? ((EtEngine) engine)::cancel : ((OrtEngine) engine)::cancel);
        out.printf(", \"held\": %d", engine.past());
        engine.reset();
        probing.interrupted("closing", prompt, () -> closed(engine));
        closed(engine);
        probing.tell("closed", () -> engine.feed(new int[] {1}, probing.logits));
        out.println("}");
    }

    private void refused() throws EngineException {
        tell("empty", () -> engine.feed(new int[0], logits));
        tell("room", () -> engine.feed(new int[] {1}, new float[vocab - 1]));
        tell("token", () -> engine.feed(new int[] {1, vocab}, logits));
        engine.feed(ids(3), logits);
        tell("full", () -> engine.feed(ids(engine.context() - 2), logits));
        out.printf(", \"past\": %d", engine.past());
        engine.reset();
        out.printf(", \"reset\": %d", engine.past());
    }

    /** The largest difference of a logit when a prompt is fed at once, again after a reset, and token by token. */
    private void again() throws EngineException {
        int[] prompt = ids(Math.min(300, engine.context()));
        engine.feed(prompt, logits);
        float[] first = logits.clone();
        engine.reset();
        engine.feed(prompt, logits);
        out.printf(Locale.ROOT, ", \"repeated\": %.9f", difference(first));
        engine.reset();
        for (int id : prompt) {
            engine.feed(new int[] {id}, logits);
        }
        out.printf(Locale.ROOT, ", \"stepwise\": %.9f", difference(first));
        engine.reset();
    }

    private double difference(float[] other) {
        double most = 0;
        for (int i = 0; i < vocab; i++) {
            most = Math.max(most, Math.abs(logits[i] - other[i]));
        }
        return most;
    }

    /** Feeds while another thread asks for the end again and again, since the feed may not have begun yet. */
    private void interrupted(String name, int[] prompt, Runnable asked) {
        Thread feeding = new Thread(() -> tell(name, () -> engine.feed(prompt, logits)));
        feeding.start();
        try {
            while (feeding.isAlive()) {
                Thread.sleep(EACH_MILLIS);
                asked.run();
            }
        } catch (InterruptedException problem) {
            Thread.currentThread().interrupt();
        }
    }

    private static void closed(Engine engine) {
        try {
            engine.close();
        } catch (IOException problem) {
            throw new IllegalStateException(problem);
        }
    }

    private interface Action {
        void run() throws IOException, BundleException, EngineException;
    }

    private void tell(String name, Action action) {
        String said = "nothing";
        try {
            action.run();
        } catch (IOException | BundleException | EngineException problem) {
            said = problem.getMessage();
        }
        out.printf(", \"%s\": %s", name, Main.quoted(said));
    }

    private int[] ids(int count) {
        int[] result = new int[count];
        Arrays.setAll(result, i -> 1 + i * 7 % (vocab - 1));
        return result;
    }
}
