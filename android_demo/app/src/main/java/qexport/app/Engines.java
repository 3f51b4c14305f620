package qexport.app;

import android.content.Context;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.util.LinkedHashMap;
import java.util.Map;
import qexport.core.Bundle;
import qexport.core.BundleException;
import qexport.core.Engine;
import qexport.core.EngineException;
import qexport.core.SpeechModel;
import qexport.core.TextModel;
import qexport.core.Tokenizer;
import qexport.core.Tokenizers;
import qexport.ort.OrtEngine;
import qexport.ort.OrtSpeechEngine;
import qexport.ort.OrtTextEncoder;

/** Opens models with the runtime that they are for. */
final class Engines {
    private static final String ET_ENGINE = "qexport.et.EtEngine";

    private Engines() {
    }

    /** The runtimes that this build carries, and their versions as it was built. */
    static Map<String, String> runtimes(Context context) {
        Map<String, String> runtimes = new LinkedHashMap<>();
        runtimes.put("onnxruntime", context.getString(R.string.version_onnxruntime));
        if (isHere(ET_ENGINE) && isHere("org.pytorch.executorch.Module")) {
            runtimes.put("executorch", context.getString(R.string.version_executorch));
        }
        return runtimes;
    }

    private static boolean isHere(String name) {
        try {
            Class.forName(name, false, Engines.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException | LinkageError e) {
            return false;
        }
    }

    /** Opens a checked model. */
    static Model open(Bundle bundle, Stored stored, int threads)
            throws BundleException, EngineException, IOException {
        boolean executorch = bundle.runtime().equals("executorch");
        if (bundle.encoder() != null && !executorch) {
            return Model.of(bundle, stored, tokenizer(stored, bundle.encoder().tokenizer()), threads,
                    new OrtTextEncoder(stored.map(bundle.model()), bundle.encoder(), threads));
        }
        if (bundle.speech() != null && !executorch) {
            SpeechModel speech = bundle.speech();
            return Model.of(bundle, stored, tokenizer(stored, speech.tokenizer()), threads, new OrtSpeechEngine(
                    stored.map(speech.encoder()), stored.map(speech.decoder()), speech, threads));
        }
        if (bundle.text() == null) {
            throw new EngineException(bundle.title() + " is for " + bundle.runtime() + ", with which this app does no "
                    + bundle.task() + "; bundle the model's file for onnxruntime");
        }
        Tokenizer tokenizer = tokenizer(stored, bundle.text().tokenizer());
        if (executorch) {
            Engine engine = executorch(stored.path(bundle.model()), bundle.text(), threads);
            return Model.of(bundle, stored, tokenizer, threads, engine, () -> cancel(engine));
        }
        OrtEngine engine = new OrtEngine(stored.map(bundle.model()), bundle.text(), threads);
        return Model.of(bundle, stored, tokenizer, threads, engine, engine::cancel);
    }

    private static Tokenizer tokenizer(Stored stored, String path) throws BundleException, IOException {
        return Tokenizers.parse(Streams.text(stored, path));
    }

    private static void cancel(Engine executorch) {
        try {
            executorch.getClass().getMethod("cancel").invoke(executorch);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException("the engine for ExecuTorch cannot be cancelled", e);
        }
    }

    /** By name: the offline build of the app has no such class. */
    private static Engine executorch(String path, TextModel text, int threads) throws EngineException {
        try {
            return (Engine) Class.forName(ET_ENGINE).getConstructor(String.class, TextModel.class, int.class)
                    .newInstance(path, text, threads);
        } catch (InvocationTargetException e) {
            if (e.getCause() instanceof EngineException) {
                throw (EngineException) e.getCause();
            }
            throw Failures.asEngine(e.getCause());
        } catch (ReflectiveOperationException | LinkageError e) {
            throw new EngineException("This build of the app carries no ExecuTorch; install the one that does", e);
        }
    }
}
