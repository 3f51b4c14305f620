package qexport.app;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.view.View;
import android.widget.Button;
import android.widget.ProgressBar;
import android.widget.TextView;

/** A page that needs a loaded model: shows how far it is, and its own content once it is there. */
abstract class ModelPage extends PageActivity {
    private static final String CHOICE = "choice";

    Choice choice;
    /** Null until it is loaded. */
    Model model;
    private boolean fresh;  // opened by the person just now, not by a rotation
    private final State.Listener<Load> loading = this::changed;

    /** Opens a page for a model. */
    static Intent intent(Activity from, Class<? extends ModelPage> page, Choice choice) {
        return new Intent(from, page).putExtra(CHOICE, choice.key());
    }

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        choice = Choice.of(getIntent().getStringExtra(CHOICE));
        fresh = saved == null;
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.models.open(choice, fresh);
        fresh = false;
        app.models.state.listen(loading);
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.models.state.forget(loading);
        model = null;  // in the background it may be closed, and a page must not hold its memory
    }

    /** The model is loaded. */
    abstract void ready(Load load);

    private void changed(Load load) {
        boolean here = load.phase == Load.Phase.READY && choice.equals(load.choice);
        findViewById(R.id.work).setVisibility(here ? View.GONE : View.VISIBLE);
        findViewById(R.id.content).setVisibility(here ? View.VISIBLE : View.GONE);
        if (here) {
            boolean first = model != load.model;
            model = load.model;
            title(load.model.bundle.title());
            if (first) {
                ready(load);
            }
            return;
        }
        model = null;
        boolean works = load.phase != Load.Phase.FAILED && load.phase != Load.Phase.CANCELLED;
        TextView text = (TextView) findViewById(R.id.work_text);
        set(text, sentence(load));
        ProgressBar bar = (ProgressBar) findViewById(R.id.work_bar);
        bar.setVisibility(works ? View.VISIBLE : View.GONE);
        bar.setIndeterminate(load.all == 0);
        bar.setProgress(load.all == 0 ? 0 : (int) (1000 * load.done / load.all));
        Button button = (Button) findViewById(R.id.work_button);
        button.setText(works ? R.string.cancel : R.string.again);
        button.setOnClickListener(works ? view -> app.models.cancel() : view -> app.models.openAgain(choice));
    }

    private String sentence(Load load) {
        switch (load.phase) {
            case COPYING:
                return getString(R.string.copying_model);
            case CHECKING:
                return getString(R.string.checking_model);
            case OPENING:
                return getString(R.string.opening_model);
            case FAILED:
                return load.problem;
            case CANCELLED:
                return getString(R.string.loading_cancelled);
            default:
                return getString(R.string.waiting);
        }
    }
}
