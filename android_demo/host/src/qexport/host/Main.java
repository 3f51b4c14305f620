package qexport.host;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.Chat;
import qexport.core.EngineException;
import qexport.core.Golden;
import qexport.core.GoldenReplay;
import qexport.core.Sampler;
import qexport.core.Settings;
import qexport.core.TextModel;
import qexport.core.Tokenizer;
import qexport.core.Tokenizers;
import qexport.ort.OrtEngine;

/**
 * The app's classes on a JVM: `chat BUNDLE STEPS THREADS` answers each line of standard input greedily and prints the
 * ids of prompt and answer as JSON; `replay BUNDLE THREADS` repeats the golden prompts and fails where they differ.
 */
public final class Main {
    private final Path folder;
    private final TextModel text;
    private final Bundle bundle;
    private final Tokenizer tokenizer;
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private Main(Path folder) throws IOException, BundleException {
        this.folder = folder;
        bundle = Bundle.parse(read("bundle.json"));
        BundleCheck.verify(bundle, path -> Files.newInputStream(folder.resolve(path)), null);
        text = bundle.text();
        tokenizer = Tokenizers.parse(read(text.tokenizer()));
    }

    /** 0: good, 1: the golden prompts differ, 2: a message on standard error. */
    public static void main(String[] arguments) {
        try {
            Main main = new Main(Paths.get(arguments[1]));
            boolean good = arguments[0].equals("replay")
                    ? main.replay(Integer.parseInt(arguments[2]))
                    : main.chat(Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]));
            System.exit(good ? 0 : 1);
        } catch (IOException | BundleException | EngineException problem) {
            System.err.println(problem.getMessage());
            System.exit(2);
        }
    }

    private boolean chat(int steps, int threads) throws IOException, EngineException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Chat chat = new Chat(text, tokenizer);
        try (OrtEngine engine = open(threads)) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                int[] prompt = chat.encode(Collections.singletonList(new Chat.Message("user", line)));
                engine.reset();
                long start = System.nanoTime();
                List<Integer> answer = new ArrayList<>();
                double rate = answer(engine, prompt, steps, answer);
                out.printf("{\"prompt\": %s, \"answer\": %s, \"seconds\": %.4f, \"tokens_per_second\": %.2f}%n",
                        Arrays.toString(prompt), answer, (System.nanoTime() - start) / 1e9, rate);
            }
        }
        return true;
    }

    /** Adds the greedy ids to `answer`, the stop token among them; tokens a second behind the first. */
    private double answer(OrtEngine engine, int[] prompt, int steps, List<Integer> answer) throws EngineException {
        Sampler sampler = new Sampler(Settings.greedy(steps));
        float[] logits = new float[text.vocab()];
        engine.feed(prompt, logits);
        answer.add(sampler.next(logits));
        long start = System.nanoTime();
        while (answer.size() < steps && !isStop(answer.get(answer.size() - 1))) {
            engine.feed(new int[] {answer.get(answer.size() - 1)}, logits);
            answer.add(sampler.next(logits));
        }
        return (answer.size() - 1) * 1e9 / (System.nanoTime() - start);
    }

    private boolean isStop(int id) {
        return Arrays.stream(text.stopIds()).anyMatch(stop -> stop == id);
    }

    private boolean replay(int threads) throws IOException, BundleException, EngineException {
        Golden golden = Golden.parse(read(bundle.golden()), "x86_64", text.vocab());
        boolean good = true;
        try (OrtEngine engine = open(threads)) {
            for (GoldenReplay.Result result : GoldenReplay.run(golden, engine, text, tokenizer, null)) {
                good &= result.passed();
                out.printf("%s: %d of %d tokens, largest difference of a logit %.3f%s%n",
                        result.text().replace('\n', ' '), result.sameTokens(), result.tokens(),
                        result.logitError(), result.passed() ? "" : ": " + result.failure());
            }
        }
        return good;
    }

    private OrtEngine open(int threads) throws IOException, EngineException {
        try (FileChannel file = FileChannel.open(folder.resolve(bundle.model()))) {
            MappedByteBuffer mapped = file.map(FileChannel.MapMode.READ_ONLY, 0, file.size());
            return new OrtEngine(mapped, text, threads);
        }
    }

    private String read(String path) throws IOException {
        return new String(Files.readAllBytes(folder.resolve(path)), StandardCharsets.UTF_8);
    }
}
