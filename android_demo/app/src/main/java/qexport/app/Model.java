package qexport.app;

import java.io.IOException;
import qexport.core.Bundle;
import qexport.core.Chat;
import qexport.core.Engine;
import qexport.core.Files;
import qexport.core.Generation;
import qexport.core.Tokenizer;

/** A loaded model with what its task needs; used on the worker only. */
final class Model {
    final Bundle bundle;
    final Files files;
    final Tokenizer tokenizer;
    final Engine engine;
    final Generation generation;
    final Chat chat;
    final int threads;

    /** A language model. */
    Model(Bundle bundle, Files files, Tokenizer tokenizer, Engine engine, int threads) {
        this.bundle = bundle;
        this.files = files;
        this.tokenizer = tokenizer;
        this.engine = engine;
        this.threads = threads;
        generation = new Generation(engine, bundle.text(), tokenizer);
        chat = new Chat(bundle.text(), tokenizer);
    }

    String runtimeVersion() {
        return engine.runtimeVersion();
    }

    /** Frees what the runtime holds. */
    void close() {
        try {
            engine.close();
        } catch (IOException e) {
            throw new IllegalStateException("the runtime does not free the model", e);
        }
    }
}
