package qexport.host;

import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import qexport.core.BundleException;
import qexport.core.EngineException;
import qexport.core.Generation;
import qexport.core.LogMel;
import qexport.core.Statistics;
import qexport.core.Wave;
import qexport.ort.OrtSpeechEngine;

/** What is said in a WAV file, as JSON; `heard`: where each window of sound ends, in samples. */
final class Transcribing {
    private Transcribing() {
    }

    static void run(Opened opened, Path file, PrintStream out) throws IOException, BundleException, EngineException {
        StringBuilder text = new StringBuilder();
        List<Integer> heard = new ArrayList<>();
        Generation.Listener listener = new Generation.Listener() {
            @Override
            public void prefilled(int done, int all) {
                heard.add(done);
            }

            @Override
            public void text(String piece) {
                text.append(piece);
            }
        };
        try (OrtSpeechEngine engine = opened.speechEngine()) {
            Statistics statistics = opened.transcriber(engine).transcribe(read(file).at16k().samples(), listener);
            out.printf("{\"text\": %s, \"heard\": %s, \"tokens\": %d, \"first_seconds\": %.4f, \"seconds\": %.4f}%n",
                    Main.quoted(text.toString()), heard, statistics.newTokens(), statistics.prefillNanos() / 1e9,
                    (statistics.prefillNanos() + statistics.decodeNanos()) / 1e9);
        }
    }

    static void features(Opened opened, Path file, PrintStream out) throws IOException, BundleException, EngineException {
        float[] pcm = read(file).at16k().samples();
        float[] features = new LogMel(opened.speech()).of(pcm, 0, Math.min(pcm.length, opened.speech().samples()));
        ByteBuffer bytes = ByteBuffer.allocate(4 * features.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(features);
        out.write(bytes.array(), 0, bytes.capacity());
        out.flush();
    }

    private static Wave read(Path file) throws IOException, EngineException {
        try (InputStream in = new BufferedInputStream(Files.newInputStream(file))) {
            return Wave.read(in);
        }
    }
}
