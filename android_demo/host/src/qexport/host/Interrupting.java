package qexport.host;

import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Path;
import qexport.core.BundleException;
import qexport.core.EngineException;
import qexport.core.Generation;
import qexport.core.Statistics;
import qexport.core.Transcriber;
import qexport.ort.OrtSpeechEngine;

/** A transcription that is cancelled while the model listens, one after it, and one whose model is closed: as JSON. */
final class Interrupting {
    private static final int COLD_MILLIS = 200;  // the first run of a JVM takes several times as long
    private static final int WARM_MILLIS = 50;

    private Interrupting() {
    }

    static void run(Opened opened, Path file, PrintStream out) throws IOException, BundleException, EngineException {
        float[] pcm = Transcribing.read(file).at16k().samples();
        OrtSpeechEngine engine = opened.speechEngine();
        Transcriber transcriber = opened.transcriber(engine);
        StringBuilder text = new StringBuilder();
        Thread cancelling = later(COLD_MILLIS, transcriber::cancel);
        Statistics.End first = transcriber.transcribe(pcm, listener(text)).end();
        joined(cancelling);
        int before = text.length();
        Statistics.End second = transcriber.transcribe(pcm, listener(text)).end();
        Thread closing = later(WARM_MILLIS, engine::close);
        String message = "none";
        try {
            transcriber.transcribe(pcm, listener(text));
        } catch (EngineException problem) {
            message = problem.getMessage();
        }
        joined(closing);
        engine.close();
        out.printf("{\"first\": \"%s\", \"then\": \"%s\", \"text\": %s, \"closed\": %s}%n", first, second,
                Main.quoted(text.substring(before)), Main.quoted(message));
    }

    private static Thread later(int millis, Runnable action) {
        Thread thread = new Thread(() -> {
            try {
                Thread.sleep(millis);
                action.run();
            } catch (InterruptedException problem) {
                Thread.currentThread().interrupt();
            }
        });
        thread.start();
        return thread;
    }

    private static void joined(Thread thread) {
        try {
            thread.join();
        } catch (InterruptedException problem) {
            Thread.currentThread().interrupt();
        }
    }

    private static Generation.Listener listener(StringBuilder text) {
        return new Generation.Listener() {
            @Override
            public void prefilled(int done, int all) {
            }

            @Override
            public void text(String piece) {
                text.append(piece);
            }
        };
    }
}
