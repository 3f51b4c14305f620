package qexport.app;

import android.content.Intent;
import android.os.Bundle;
import android.view.View;
import android.widget.Button;
import android.widget.ProgressBar;
import android.widget.TextView;

/** One tap proves, or disproves, that the model computes here what was exported. */
public final class SelfTestActivity extends ModelPage {
    private final State.Listener<SelfTestWork.Snapshot> listener = this::show;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        show(R.layout.self_test, getString(R.string.self_test));
        findViewById(R.id.more).setVisibility(View.GONE);
        findViewById(R.id.start).setOnClickListener(view -> pressed());
        findViewById(R.id.share).setOnClickListener(view -> share());
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.selfTest.state.listen(listener);
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.selfTest.state.forget(listener);
    }

    @Override
    void ready(Load load) {
        show(app.selfTest.state.get());
    }

    private void pressed() {
        if (app.selfTest.state.get().running) {
            app.selfTest.stop();
        } else if (model != null) {
            app.selfTest.start(model, Devices.description(), Devices.abi());
        }
    }

    private void show(SelfTestWork.Snapshot test) {
        boolean ours = model != null && test.key == model.key;
        boolean running = ours && test.running;
        ((Button) findViewById(R.id.start)).setText(running ? R.string.cancel : R.string.self_test_start);
        ProgressBar bar = (ProgressBar) findViewById(R.id.test_bar);
        bar.setVisibility(running ? View.VISIBLE : View.INVISIBLE);
        bar.setIndeterminate(test.all == 0);
        bar.setProgress(test.all == 0 ? 0 : 1000 * test.done / test.all);
        String report = ours ? test.report : null;
        set((TextView) findViewById(R.id.status), status(test, ours, running));
        set((TextView) findViewById(R.id.report), report);
        findViewById(R.id.share).setVisibility(report == null ? View.GONE : View.VISIBLE);
    }

    private String status(SelfTestWork.Snapshot test, boolean ours, boolean running) {
        if (running) {
            return test.all == 0 ? getString(R.string.self_test_runs)
                    : getString(R.string.self_test_at, test.done, test.all);
        }
        if (!ours) {
            return "";
        }
        return test.problem != null ? test.problem
                : test.report != null ? test.report.substring(0, test.report.indexOf('\n')) : "";
    }

    private void share() {
        String report = app.selfTest.state.get().report;
        if (report != null) {
            Intent send = new Intent(Intent.ACTION_SEND).setType("text/plain").putExtra(Intent.EXTRA_TEXT, report)
                    .putExtra(Intent.EXTRA_SUBJECT, getString(R.string.self_test));
            startActivity(Intent.createChooser(send, getString(R.string.share)));
        }
    }
}
