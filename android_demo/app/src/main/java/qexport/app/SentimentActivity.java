package qexport.app;

import android.os.Bundle;

/** What a classifier says about a text. */
public final class SentimentActivity extends EncoderPage {
    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        begin(R.layout.sentiment, R.string.task_sentiment, R.string.judge);
    }

    @Override
    void ask(Model model) {
        app.encoder.judge(model, typed(R.id.query));
    }

    @Override
    String value(double value) {
        return getString(R.string.probability, 100 * value);
    }
}
