package qexport.app;

import android.app.AlertDialog;
import java.util.ArrayList;
import java.util.List;

/** A menu as a dialog: PopupMenu's class in Debian's Android library names classes that it does not hold. */
final class Actions {
    private final PageActivity page;
    private final List<String> names = new ArrayList<>();
    private final List<Runnable> actions = new ArrayList<>();

    Actions(PageActivity page) {
        this.page = page;
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
        page.show(new AlertDialog.Builder(page).setTitle(title)
                .setItems(names.toArray(new String[0]), (dialog, which) -> actions.get(which).run())
                .setNegativeButton(R.string.cancel, null));
    }
}
