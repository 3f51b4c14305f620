package qexport.host;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.EncoderTask;
import qexport.core.EngineException;
import qexport.core.Tokenizer;
import qexport.core.Tokenizers;
import qexport.core.Transcriber;
import qexport.ort.OrtEngine;
import qexport.ort.OrtSpeechEngine;
import qexport.ort.OrtTextEncoder;

/** A bundle's folder, proven byte for byte, and its model in ONNX Runtime. */
final class Opened {
    final Bundle bundle;
    final Tokenizer tokenizer;
    final int threads;
    private final Path folder;

    Opened(Path folder, int threads) throws IOException, BundleException {
        this.folder = folder;
        this.threads = threads;
        bundle = Bundle.parse(read("bundle.json"));
        BundleCheck.verify(bundle, files(), null);
        tokenizer = Tokenizers.parse(read(bundle.text() != null ? bundle.text().tokenizer()
                : bundle.encoder() != null ? bundle.encoder().tokenizer() : speech().tokenizer()));
    }

    qexport.core.Files files() {
        return path -> Files.newInputStream(folder.resolve(path));
    }

    String read(String path) throws IOException {
        return new String(Files.readAllBytes(folder.resolve(path)), StandardCharsets.UTF_8);
    }

    OrtEngine engine() throws IOException, EngineException {
        return new OrtEngine(mapped(bundle.model()), bundle.text(), threads);
    }

    OrtTextEncoder encoder() throws IOException, EngineException {
        return new OrtTextEncoder(mapped(bundle.model()), bundle.encoder(), threads);
    }

    EncoderTask task(OrtTextEncoder encoder) {
        return new EncoderTask(bundle.encoder(), tokenizer, encoder);
    }

    OrtSpeechEngine speechEngine() throws IOException, EngineException, BundleException {
        return new OrtSpeechEngine(mapped(speech().encoder()), mapped(speech().decoder()), speech(), threads);
    }

    Transcriber transcriber(OrtSpeechEngine engine) {
        return new Transcriber(bundle.speech(), tokenizer, engine);
    }

    qexport.core.SpeechModel speech() throws BundleException {
        if (bundle.speech() == null) {
            throw new BundleException("The bundle does " + bundle.task() + "; this command needs another one");
        }
        return bundle.speech();
    }

    private ByteBuffer mapped(String path) throws IOException {
        try (FileChannel file = FileChannel.open(folder.resolve(path))) {
            return file.map(FileChannel.MapMode.READ_ONLY, 0, file.size());
        }
    }
}
