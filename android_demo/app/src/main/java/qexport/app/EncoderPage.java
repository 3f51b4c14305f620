package qexport.app;

import android.view.LayoutInflater;
import android.view.View;
import android.widget.Button;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.TextView;

/** A page that gives a text to an encoder and shows what comes back, the best first. */
abstract class EncoderPage extends ModelPage {
    private final State.Listener<EncoderWork.Snapshot> listener = this::show;
    private int label;

    /** Shows the layout; `label` is the button's. */
    void begin(int layout, int title, int label) {
        show(layout, getString(title));
        this.label = label;
        findViewById(R.id.ask).setOnClickListener(view -> pressed());
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.encoder.state.listen(listener);
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.encoder.state.forget(listener);
    }

    @Override
    void ready(Load load) {
        show(app.encoder.state.get());
    }

    @Override
    void fill(Actions actions) {
        actions.add(getString(R.string.self_test), () -> startActivity(intent(this, SelfTestActivity.class, choice)));
    }

    /** Begins with what the fields hold. */
    abstract void ask(Model model);

    /** A row's number in words. */
    abstract String value(double value);

    String typed(int field) {
        return ((EditText) findViewById(field)).getText().toString();
    }

    private void pressed() {
        if (app.encoder.state.get().running) {
            app.encoder.stop();
        } else if (model != null) {
            ask(model);
        }
    }

    private void show(EncoderWork.Snapshot work) {
        boolean ours = model != null && work.key == model.key;
        ((Button) findViewById(R.id.ask)).setText(ours && work.running ? R.string.stop : label);
        set((TextView) findViewById(R.id.status), ours ? status(work) : "");
        LinearLayout results = (LinearLayout) findViewById(R.id.results);
        results.removeAllViews();
        if (!ours) {
            return;
        }
        for (EncoderWork.Row row : work.rows) {
            View view = LayoutInflater.from(this).inflate(R.layout.result, results, false);
            set((TextView) view.findViewById(R.id.result_text), row.text);
            set((TextView) view.findViewById(R.id.result_value), value(row.value));
            results.addView(view);
        }
    }

    private String status(EncoderWork.Snapshot work) {
        if (work.running) {
            return work.all == 0 ? getString(R.string.reading) : getString(R.string.reading_texts, work.done, work.all);
        }
        if (work.problem != null) {
            return work.problem;
        }
        String took = getString(R.string.took, work.seconds);
        return work.cut == 0 ? took : took + "\n" + getString(R.string.texts_cut, work.cut);
    }
}
