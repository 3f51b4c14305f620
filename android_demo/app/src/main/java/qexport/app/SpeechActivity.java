package qexport.app;

import android.content.ActivityNotFoundException;
import android.content.ContentResolver;
import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.LayoutInflater;
import android.view.View;
import android.widget.LinearLayout;
import android.widget.TextView;
import java.io.IOException;
import java.io.InputStream;

/** A WAV file, written down. */
public final class SpeechActivity extends ModelPage {
    private static final int FILE = 1;
    private static final String PENDING = "pending";

    private final State.Listener<SpeechWork.Snapshot> listener = this::show;
    private Uri pending;  // chosen while the model was not loaded
    private TextView text;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        show(R.layout.speech, getString(R.string.task_speech));
        pending = saved == null || saved.getString(PENDING) == null ? null : Uri.parse(saved.getString(PENDING));
        LinearLayout results = (LinearLayout) findViewById(R.id.results);
        View row = LayoutInflater.from(this).inflate(R.layout.result, results);
        text = (TextView) row.findViewById(R.id.result_text);
        findViewById(R.id.ask).setOnClickListener(view -> chooseFile());
        findViewById(R.id.stop).setOnClickListener(view -> app.speech.stop());
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.speech.state.listen(listener);
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.speech.state.forget(listener);
    }

    @Override
    protected void onSaveInstanceState(Bundle state) {
        super.onSaveInstanceState(state);
        state.putString(PENDING, pending == null ? null : pending.toString());
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request == FILE && result == RESULT_OK && data != null) {
            pending = data.getData();
            begin();
        }
    }

    @Override
    void ready(Load load) {
        begin();
        show(app.speech.state.get());
    }

    @Override
    void fill(Actions actions) {
        actions.add(getString(R.string.self_test), () -> startActivity(intent(this, SelfTestActivity.class, choice)));
    }

    private void chooseFile() {
        Intent open = new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("audio/*");
        try {
            startActivityForResult(open, FILE);
        } catch (ActivityNotFoundException e) {
            set((TextView) findViewById(R.id.status), getString(R.string.no_picker));
        }
    }

    private void begin() {
        if (pending != null && model != null) {
            Uri file = pending;
            ContentResolver resolver = app.getContentResolver();  // the page's own would hold the page
            pending = null;
            app.speech.start(model, () -> opened(resolver, file));
        }
    }

    /** Static for the same reason. */
    private static InputStream opened(ContentResolver resolver, Uri file) throws IOException {
        try {
            InputStream in = resolver.openInputStream(file);
            if (in != null) {
                return in;
            }
        } catch (RuntimeException e) {  // other apps' providers throw what they like
            throw new IOException("the app that holds it does not give it: " + e.getMessage(), e);
        }
        throw new IOException("the app that holds it does not give it");
    }

    private void show(SpeechWork.Snapshot work) {
        boolean ours = model != null && work.key == model.key;
        boolean running = ours && work.running;
        findViewById(R.id.ask).setEnabled(!running);
        findViewById(R.id.stop).setVisibility(running ? View.VISIBLE : View.GONE);
        findViewById(R.id.results).setVisibility(ours && !work.text.isEmpty() ? View.VISIBLE : View.GONE);
        set(text, ours ? work.text : "");
        set((TextView) findViewById(R.id.status), ours ? status(work) : "");
    }

    private String status(SpeechWork.Snapshot work) {
        if (work.running) {
            return work.all == 0 ? getString(R.string.reading_file)
                    : getString(R.string.listening, work.heard, work.all);
        }
        String said = work.statistics == null ? "" : Texts.statistics(this, work.statistics, work.memory);
        return work.problem == null ? said : said.isEmpty() ? work.problem : said + "\n" + work.problem;
    }
}
