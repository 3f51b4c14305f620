package qexport.app;

import android.content.Context;
import android.text.format.Formatter;
import qexport.core.EnergyPolicy;
import qexport.core.Statistics;

/** Sentences that several pages say. */
final class Texts {
    private Texts() {
    }

    static String task(Context context, String task) {
        switch (task) {
            case "text-generation":
                return context.getString(R.string.task_chat);
            case "feature-extraction":
                return context.getString(R.string.task_search);
            case "text-classification":
                return context.getString(R.string.task_sentiment);
            case "automatic-speech-recognition":
                return context.getString(R.string.task_speech);
            default:
                return task;
        }
    }

    static String size(Context context, long bytes) {
        return Formatter.formatShortFileSize(context, bytes);
    }

    /** What the energy policy does now. */
    static String energy(Context context, Preferences preferences, EnergyPolicy.Decision decision) {
        if (!preferences.energyAware()) {
            return context.getString(R.string.energy_off);
        }
        if (decision.reason() != null) {
            return context.getString(R.string.energy_says, decision.reason());
        }
        return context.getString(R.string.energy_free, decision.threads());
    }

    /** Speed, time to the first token and memory of an answer. */
    static String statistics(Context context, Statistics statistics, long kilobytes) {
        String text = context.getString(R.string.statistics, statistics.newTokens(), statistics.decodeRate(),
                statistics.prefillNanos() / 1e9, size(context, kilobytes * 1024));
        String reason = statistics.end().reason();
        return reason == null ? text : text + "\n" + reason;
    }
}
