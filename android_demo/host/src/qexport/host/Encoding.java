package qexport.host;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.PrintStream;
import java.util.Arrays;
import qexport.core.BundleException;
import qexport.core.EncoderTask;
import qexport.core.EngineException;
import qexport.core.Label;
import qexport.ort.OrtTextEncoder;

/** Vectors or labels of lines as JSON. */
final class Encoding {
    private Encoding() {
    }

    static void run(Opened opened, BufferedReader lines, PrintStream out)
            throws IOException, BundleException, EngineException {
        if (opened.bundle.encoder() == null) {
            throw new BundleException("The bundle does " + opened.bundle.task() + "; encode needs an encoder");
        }
        try (OrtTextEncoder encoder = opened.encoder()) {
            EncoderTask task = opened.task(encoder);
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String found = opened.bundle.encoder().labels().isEmpty()
                        ? "\"vector\": " + Arrays.toString(task.embed(line)) : "\"labels\": " + labels(task, line);
                out.printf("{\"cut\": %s, %s}%n", task.cut(line), found);
            }
        }
    }

    private static String labels(EncoderTask task, String line) throws EngineException {
        StringBuilder result = new StringBuilder();
        for (Label label : task.classify(line)) {
            result.append(result.length() == 0 ? "{" : ", ").append(Main.quoted(label.name())).append(": ")
                    .append(label.probability());
        }
        return result.append('}').toString();
    }
}
