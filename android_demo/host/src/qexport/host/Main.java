package qexport.host;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.Chat;
import qexport.core.EngineException;
import qexport.core.Golden;
import qexport.core.GoldenReplay;
import qexport.core.Sampler;
import qexport.core.TextModel;
import qexport.core.Tokenizer;
import qexport.core.Tokenizers;
import qexport.ort.OrtEngine;

/** The app's classes on a desktop JVM: chat, replay the golden values, measure. */
public final class Main {
    private static final String USAGE =
            "usage: chat BUNDLE_DIR (--prompt TEXT | --ids 1,2,3)... [--steps 64] [--threads 2]\n"
            + "       replay BUNDLE_DIR [--threads 2]\n"
            + "       speed BUNDLE_DIR [--past 128] [--steps 64] [--threads 2]\n"
            + "chat prints one line of JSON for each prompt: greedy tokens, stop tokens too, exactly `steps` of them.";

    private final Path folder;
    private final Bundle bundle;
    private final TextModel text;
    private final Tokenizer tokenizer;
    private final OrtEngine engine;

    private Main(Path folder, int threads) throws IOException, BundleException, EngineException {
        this.folder = folder;
        bundle = Bundle.parse(read("bundle.json"));
        if (!"onnxruntime".equals(bundle.runtime()) || bundle.text() == null) {
            throw new BundleException(folder + " is a " + bundle.task() + " bundle for " + bundle.runtime()
                    + "; this command line runs language models in ONNX Runtime");
        }
        BundleCheck.verify(bundle, path -> Files.newInputStream(folder.resolve(path)), null);
        text = bundle.text();
        tokenizer = Tokenizers.parse(read(text.tokenizer()));
        engine = new OrtEngine(mapped(folder.resolve(bundle.model())), text, threads);
    }

    public static void main(String[] given) {
        int code;
        try {
            code = run(given);
        } catch (BundleException | EngineException | IOException problem) {
            System.err.println("error: " + problem.getMessage());
            code = 1;
        } catch (IllegalArgumentException problem) {
            System.err.println("error: " + problem.getMessage() + "\n" + USAGE);
            code = 2;
        }
        System.exit(code);
    }

    private static int run(String[] given) throws IOException, BundleException, EngineException {
        if (given.length < 2) {
            throw new IllegalArgumentException("a command and a folder are needed");
        }
        Path folder = Path.of(given[1]);
        Main main = new Main(folder, option(given, "--threads", 2));
        try {
            switch (given[0]) {
                case "chat":
                    return main.chat(given);
                case "replay":
                    return main.replay();
                case "speed":
                    return main.speed(option(given, "--past", 128), option(given, "--steps", 64));
                default:
                    throw new IllegalArgumentException("no command " + given[0]);
            }
        } finally {
            main.engine.close();
        }
    }

    private int chat(String[] given) throws EngineException {
        int steps = option(given, "--steps", 64);
        for (int i = 2; i + 1 < given.length; i++) {
            if (given[i].equals("--prompt")) {
                answer(new Chat(text, tokenizer).encode(List.of(new Chat.Message("user", given[i + 1]))), steps);
            } else if (given[i].equals("--ids")) {
                answer(Arrays.stream(given[i + 1].split(",")).mapToInt(Integer::parseInt).toArray(), steps);
            }
        }
        return 0;
    }

    private int replay() throws IOException, BundleException, EngineException {
        Golden golden = Golden.parse(read(bundle.golden()), "x86_64", text.vocab());
        List<GoldenReplay.Result> results = GoldenReplay.run(golden, engine, text, tokenizer, null);
        int failed = 0;
        for (GoldenReplay.Result result : results) {
            failed += result.passed() ? 0 : 1;
            System.out.printf(Locale.ROOT, "%s  %d of %d tokens, logits within %.4f of %.4f  %s%n",
                    result.passed() ? "passed" : "FAILED", result.sameTokens(), result.tokens(), result.logitError(),
                    golden.tolerance(), result.passed() ? result.text() : result.failure());
        }
        System.out.println(results.size() - failed + " of " + results.size() + " prompts passed");
        return failed == 0 ? 0 : 1;
    }

    private int speed(int past, int steps) throws EngineException {
        int[] prompt = new int[past];
        for (int i = 0; i < past; i++) {
            prompt[i] = (i * 37 + 1) % text.vocab();
        }
        answer(prompt, steps);  // the first pass compiles and touches pages
        answer(prompt, steps);
        return 0;
    }

    /** Greedy tokens after a prompt, as one line of JSON. */
    private void answer(int[] prompt, int steps) throws EngineException {
        float[] logits = new float[text.vocab()];
        int[] made = new int[steps];
        long[] times = new long[steps];
        engine.reset();
        long start = System.nanoTime();
        engine.feed(prompt, logits);
        long first = System.nanoTime();
        for (int i = 0; i < steps; i++) {
            made[i] = Sampler.greedy(logits);
            long before = System.nanoTime();
            engine.feed(new int[] {made[i]}, logits);
            times[i] = System.nanoTime() - before;
        }
        double seconds = (System.nanoTime() - first) / 1e9;
        Arrays.sort(times);
        Runtime heap = Runtime.getRuntime();
        System.out.printf(Locale.ROOT,
                "{\"ids\": %s, \"prompt_tokens\": %d, \"prefill_s\": %.4f, \"tokens_per_s\": %.2f,"
                        + " \"median_step_ms\": %.3f, \"heap_bytes\": %d, \"runtime\": \"%s\"}%n",
                Arrays.toString(made), prompt.length, (first - start) / 1e9, steps / seconds, times[steps / 2] / 1e6,
                heap.totalMemory() - heap.freeMemory(), engine.runtimeVersion());
    }

    private String read(String name) throws IOException {
        try (InputStream file = Files.newInputStream(folder.resolve(name))) {
            return new String(file.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    private static ByteBuffer mapped(Path file) throws IOException {
        try (FileChannel channel = FileChannel.open(file)) {
            return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size());
        }
    }

    private static int option(String[] given, String name, int otherwise) {
        for (int i = 2; i + 1 < given.length; i++) {
            if (given[i].equals(name)) {
                int value = Integer.parseInt(given[i + 1]);
                if (value < 1) {
                    throw new IllegalArgumentException(name + " " + value + ": at least 1");
                }
                return value;
            }
        }
        return otherwise;
    }
}
