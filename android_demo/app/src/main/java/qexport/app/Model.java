package qexport.app;

import java.io.Closeable;
import java.io.IOException;
import qexport.core.Bundle;
import qexport.core.Chat;
import qexport.core.EncoderTask;
import qexport.core.Engine;
import qexport.core.Files;
import qexport.core.Generation;
import qexport.core.SpeechEngine;
import qexport.core.TextEncoder;
import qexport.core.Tokenizer;
import qexport.core.Transcriber;

/** A loaded model with what its task needs, the rest null; used on the worker only. */
final class Model {
    /** Stands for the model where holding it would hold its memory. */
    final Object key = new Object();
    final Bundle bundle;
    final Files files;
    final Tokenizer tokenizer;
    final int threads;
    final String runtimeVersion;
    /** For text-generation, with the next three. */
    final Engine engine;
    /** Ends what the engine computes, from any thread; it then throws. */
    final Runnable interrupt;
    final Generation generation;
    final Chat chat;
    /** For feature-extraction and text-classification. */
    final EncoderTask encoder;
    /** For automatic-speech-recognition. */
    final Transcriber transcriber;
    private final Closeable runtime;

    private Model(Bundle bundle, Files files, Tokenizer tokenizer, int threads, String runtimeVersion, Engine engine,
            Runnable interrupt, EncoderTask encoder, Transcriber transcriber, Closeable runtime) {
        this.bundle = bundle;
        this.files = files;
        this.tokenizer = tokenizer;
        this.threads = threads;
        this.runtimeVersion = runtimeVersion;
        this.engine = engine;
        this.interrupt = interrupt;
        this.encoder = encoder;
        this.transcriber = transcriber;
        this.runtime = runtime;
        generation = engine == null ? null : new Generation(engine, bundle.text(), tokenizer);
        chat = engine == null ? null : new Chat(bundle.text(), tokenizer);
    }

    static Model of(Bundle bundle, Files files, Tokenizer tokenizer, int threads, Engine engine,
            Runnable interrupt) {
        return new Model(bundle, files, tokenizer, threads, engine.runtimeVersion(), engine, interrupt, null, null,
                engine);
    }

    static Model of(Bundle bundle, Files files, Tokenizer tokenizer, int threads, TextEncoder encoder) {
        EncoderTask task = new EncoderTask(bundle.encoder(), tokenizer, encoder);
        return new Model(bundle, files, tokenizer, threads, encoder.runtimeVersion(), null, null, task, null, encoder);
    }

    static Model of(Bundle bundle, Files files, Tokenizer tokenizer, int threads, SpeechEngine engine) {
        Transcriber transcriber = new Transcriber(bundle.speech(), tokenizer, engine);
        return new Model(bundle, files, tokenizer, threads, engine.runtimeVersion(), null, null, null, transcriber,
                engine);
    }

    /** Frees what the runtime holds. */
    void close() {
        try {
            runtime.close();
        } catch (IOException e) {
            throw new IllegalStateException("the runtime does not free the model", e);
        }
    }
}
