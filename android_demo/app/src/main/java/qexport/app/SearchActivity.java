package qexport.app;

import android.os.Bundle;

/** Texts, found by meaning. */
public final class SearchActivity extends EncoderPage {
    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        begin(R.layout.search, R.string.task_search, R.string.search);
    }

    @Override
    void ask(Model model) {
        app.encoder.search(model, typed(R.id.texts), typed(R.id.query));
    }

    @Override
    String value(double value) {
        return getString(R.string.likeness, value);
    }
}
