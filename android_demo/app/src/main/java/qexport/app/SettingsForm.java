package qexport.app;

import qexport.core.Settings;

/** The settings page's five fields, each judged for itself, so that its message can stand beside it. */
final class SettingsForm {
    /** What the fields hold at first: temperature, top-k, top-p, seed, most new tokens. */
    static final String[] DEFAULTS = {"0.7", "40", "0.9", "1", "256"};

    private SettingsForm() {
    }

    /** For each field what is wrong with it, or null. */
    static String[] problems(String[] texts) {
        String[] problems = new String[DEFAULTS.length];
        for (int i = 0; i < problems.length; i++) {
            String[] one = DEFAULTS.clone();
            one[i] = texts[i];
            try {
                parse(one);
            } catch (IllegalArgumentException e) {
                problems[i] = e.getMessage();
            }
        }
        return problems;
    }

    /** The settings; only for texts without {@link #problems}. */
    static Settings parse(String[] texts) {
        return Settings.parse(texts[0], texts[1], texts[2], texts[3], texts[4]);
    }
}
