package qexport.app;

import android.content.Context;
import android.content.SharedPreferences;
import qexport.core.Settings;

/** What the person chose, as it was typed; only what was checked is stored. */
final class Preferences {
    private static final String ENERGY = "energy_aware";
    private static final String[] KEYS = {"temperature", "top_k", "top_p", "seed", "most_tokens"};

    private final SharedPreferences stored;

    Preferences(Context context) {
        stored = context.getSharedPreferences("settings", Context.MODE_PRIVATE);
    }

    /** The fields' texts, for SettingsForm. */
    String[] fields() {
        String[] fields = new String[KEYS.length];
        for (int i = 0; i < fields.length; i++) {
            fields[i] = stored.getString(KEYS[i], SettingsForm.DEFAULTS[i]);
        }
        return fields;
    }

    Settings settings() {
        try {
            return SettingsForm.parse(fields());
        } catch (IllegalArgumentException e) {  // stored by another version of the app
            return SettingsForm.parse(SettingsForm.DEFAULTS);
        }
    }

    boolean energyAware() {
        return stored.getBoolean(ENERGY, true);
    }

    void store(String[] fields, boolean energyAware) {
        SharedPreferences.Editor editor = stored.edit();
        for (int i = 0; i < fields.length; i++) {
            editor.putString(KEYS[i], fields[i]);
        }
        editor.putBoolean(ENERGY, energyAware).apply();
    }
}
