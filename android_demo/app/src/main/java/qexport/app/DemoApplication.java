package qexport.app;

import android.app.Application;
import android.content.Context;
import android.os.Debug;
import android.os.Handler;
import android.os.Looper;
import java.io.File;
import java.util.concurrent.Executor;
import qexport.core.Bundle;

/** Owns all that outlives a page: the worker, the loaded model, the conversation. Pages only listen. */
public final class DemoApplication extends Application {
    Worker worker;
    Preferences preferences;
    Energy energy;
    Library library;
    Models models;
    ChatWork chat;
    SelfTestWork selfTest;
    EncoderWork encoder;
    SpeechWork speech;
    private int visible = 0;

    static DemoApplication of(Context context) {
        return (DemoApplication) context.getApplicationContext();
    }

    @Override
    public void onCreate() {
        super.onCreate();
        Handler handler = new Handler(Looper.getMainLooper());
        Executor main = handler::post;
        worker = new Worker("models");
        preferences = new Preferences(this);
        energy = new Energy(this, preferences);
        library = new Library(this, worker, main);
        models = new Models(this, library, worker, energy, main);
        chat = new ChatWork(worker, main, energy, Debug::getPss);
        selfTest = new SelfTestWork(worker, main, energy, Debug::getPss);
        encoder = new EncoderWork(worker, main, energy);
        speech = new SpeechWork(worker, main, energy, Debug::getPss);
    }

    /** Where the conversation with a model is kept, one for all of its sizes. */
    File conversation(Bundle bundle) {
        String group = bundle.variantGroup();
        String name = group == null ? bundle.id() : "+" + group;
        // a group may be named anything, a file may not
        return new File(new File(getNoBackupFilesDir(), "conversations"), name.replaceAll("[^\\w.+-]", "_") + ".json");
    }

    /** A page came into sight. */
    void shown() {
        visible++;
    }

    /** A page went out of sight. */
    void hidden() {
        visible--;
    }

    /** In the background the system ends the largest processes first: the model goes, conversations are text anyway. */
    @Override
    public void onTrimMemory(int level) {
        super.onTrimMemory(level);
        if (visible == 0 && level >= TRIM_MEMORY_BACKGROUND && !worker.busy()) {
            models.close();
        }
    }
}
