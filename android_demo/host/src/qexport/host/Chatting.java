package qexport.host;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import qexport.core.BundleException;
import qexport.core.Chat;
import qexport.core.EngineException;
import qexport.core.Sampler;
import qexport.core.Settings;
import qexport.core.TextModel;
import qexport.ort.OrtEngine;

/** Greedy answers as JSON. */
final class Chatting {
    private Chatting() {
    }

    static void run(Opened opened, int steps, BufferedReader lines, PrintStream out)
            throws IOException, BundleException, EngineException {
        TextModel text = opened.bundle.text();
        if (text == null) {
            throw new BundleException("The bundle does " + opened.bundle.task() + "; chat needs a language model");
        }
        Chat chat = new Chat(text, opened.tokenizer);
        try (OrtEngine engine = opened.engine()) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                int[] prompt = chat.encode(Collections.singletonList(new Chat.Message("user", line)));
                engine.reset();
                long start = System.nanoTime();
                List<Integer> answer = new ArrayList<>();
                double rate = answer(engine, text, prompt, steps, answer);
                out.printf("{\"prompt\": %s, \"answer\": %s, \"seconds\": %.4f, \"tokens_per_second\": %.2f}%n",
                        Arrays.toString(prompt), answer, (System.nanoTime() - start) / 1e9, rate);
            }
        }
    }

    /** Adds the greedy ids to `answer`, the stop token among them; tokens a second behind the first. */
    private static double answer(OrtEngine engine, TextModel text, int[] prompt, int steps, List<Integer> answer)
            throws EngineException {
        Sampler sampler = new Sampler(Settings.greedy(steps));
        float[] logits = new float[text.vocab()];
        engine.feed(prompt, logits);
        answer.add(sampler.next(logits));
        long start = System.nanoTime();
        while (answer.size() < steps && !isStop(text, answer.get(answer.size() - 1))) {
            engine.feed(new int[] {answer.get(answer.size() - 1)}, logits);
            answer.add(sampler.next(logits));
        }
        return (answer.size() - 1) * 1e9 / (System.nanoTime() - start);
    }

    private static boolean isStop(TextModel text, int id) {
        return Arrays.stream(text.stopIds()).anyMatch(stop -> stop == id);
    }
}
