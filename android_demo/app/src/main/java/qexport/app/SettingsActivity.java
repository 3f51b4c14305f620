package qexport.app;

import android.os.Bundle;
import android.view.View;
import android.widget.EditText;
import android.widget.Switch;
import android.widget.TextView;

/** How answers are drawn, and whether the app spares the battery. */
public final class SettingsActivity extends PageActivity {
    private static final int[] FIELDS = {R.id.temperature, R.id.top_k, R.id.top_p, R.id.seed, R.id.most_tokens};
    private static final int[] PROBLEMS = {R.id.temperature_problem, R.id.top_k_problem, R.id.top_p_problem,
        R.id.seed_problem, R.id.most_tokens_problem};

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        show(R.layout.settings, getString(R.string.settings));
        findViewById(R.id.more).setVisibility(View.GONE);
        if (saved == null) {  // else the fields bring back what was typed
            fill(app.preferences.fields());
            energyAware().setChecked(app.preferences.energyAware());
        }
        findViewById(R.id.save).setOnClickListener(view -> save());
        findViewById(R.id.defaults).setOnClickListener(view -> fill(SettingsForm.DEFAULTS));
    }

    @Override
    protected void onStart() {
        super.onStart();
        set((TextView) findViewById(R.id.energy), Texts.energy(this, app.preferences, app.energy.decide()));
    }

    private Switch energyAware() {
        return (Switch) findViewById(R.id.energy_aware);
    }

    private void fill(String[] texts) {
        for (int i = 0; i < FIELDS.length; i++) {
            ((EditText) findViewById(FIELDS[i])).setText(texts[i]);
        }
    }

    private void save() {
        String[] texts = new String[FIELDS.length];
        for (int i = 0; i < FIELDS.length; i++) {
            texts[i] = ((EditText) findViewById(FIELDS[i])).getText().toString();
        }
        String[] problems = SettingsForm.problems(texts);
        View wrong = null;
        for (int i = 0; i < FIELDS.length; i++) {
            set((TextView) findViewById(PROBLEMS[i]), problems[i]);
            if (problems[i] != null && wrong == null) {
                wrong = findViewById(FIELDS[i]);
            }
        }
        if (wrong != null) {
            wrong.requestFocus();
            return;
        }
        app.preferences.store(texts, energyAware().isChecked());
        finish();
    }
}
