package qexport.app;

import android.app.Activity;
import android.app.AlertDialog;
import java.util.ArrayList;
import java.util.List;

/** A menu as a dialog: PopupMenu's class in Debian's Android library names classes that it does not hold. */
final class Actions {
    private final Activity activity;
    private final List<String> names = new ArrayList<>();
    private final List<Runnable> actions = new ArrayList<>();

    Actions(Activity activity) {
        this.activity = activity;
    }

    Actions add(String name, Runnable action) {
        names.add(name);
        actions.add(action);
        return this;
    }

    boolean isEmpty() {
        return names.isEmpty();
    }

    void show(String title) {
        new AlertDialog.Builder(activity).setTitle(title)
                .setItems(names.toArray(new String[0]), (dialog, which) -> actions.get(which).run())
                .setNegativeButton(R.string.cancel, null).show();
    }
}
