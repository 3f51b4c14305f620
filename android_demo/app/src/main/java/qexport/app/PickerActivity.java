package qexport.app;

import android.app.AlertDialog;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.os.Bundle;
import android.view.LayoutInflater;
import android.view.View;
import android.widget.ArrayAdapter;
import android.widget.Button;
import android.widget.ImageButton;
import android.widget.LinearLayout;
import android.widget.ListView;
import android.widget.ProgressBar;
import android.widget.TextView;
import java.io.IOException;

/** The first page: all models, why one cannot run here, and the way to import another. */
public final class PickerActivity extends PageActivity {
    private static final int FOLDER = 1;

    private final State.Listener<Catalog> catalog = this::show;
    private final State.Listener<Library.Import> importing = this::show;
    private LinearLayout entries;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        show(R.layout.picker, getString(R.string.app_name));
        findViewById(R.id.back).setVisibility(View.GONE);
        entries = (LinearLayout) findViewById(R.id.entries);
        findViewById(R.id.take).setOnClickListener(view -> chooseFolder());
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.library.catalog.listen(catalog);
        app.library.importing.listen(importing);
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.library.catalog.forget(catalog);
        app.library.importing.forget(importing);
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request == FOLDER && result == RESULT_OK && data != null && data.getData() != null) {
            app.library.take(new TreeFiles(app.getContentResolver(), data.getData()), app.models);
        }
    }

    @Override
    void fill(Actions actions) {
        actions.add(getString(R.string.settings), () -> startActivity(new Intent(this, SettingsActivity.class)));
        for (String name : app.library.notices()) {
            actions.add(name, () -> read(name, app.library.notices(name)));
        }
    }

    private void chooseFolder() {
        try {
            startActivityForResult(new Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), FOLDER);
        } catch (ActivityNotFoundException e) {
            say(getString(R.string.import_folder), getString(R.string.no_picker));
        }
    }

    private void show(Catalog found) {
        Device device = Devices.now(this, app.models.heldBytes());
        set((TextView) findViewById(R.id.device), getString(R.string.device, Texts.size(this, device.free()),
                Devices.abi()));
        set((TextView) findViewById(R.id.energy), Texts.energy(this, app.preferences, app.energy.decide()));
        entries.removeAllViews();
        for (Entry entry : found.entries) {
            View row = LayoutInflater.from(this).inflate(R.layout.entry, entries, false);
            bind(row, entry, device);
            entries.addView(row);
        }
        findViewById(R.id.empty).setVisibility(found.entries.isEmpty() ? View.VISIBLE : View.GONE);
    }

    private void bind(View row, Entry entry, Device device) {
        String never = entry.never(device);
        set((TextView) row.findViewById(R.id.name), entry.title());
        set((TextView) row.findViewById(R.id.facts), facts(entry));
        set((TextView) row.findViewById(R.id.why_not), never != null ? never : entry.notNow(device));
        View open = row.findViewById(R.id.open);
        open.setEnabled(never == null);
        if (never == null) {  // memory may be free a moment later, so that alone does not lock the entry
            open.setOnClickListener(view -> open(entry.choice, entry.first().bundle.task()));
        }
        ImageButton more = (ImageButton) row.findViewById(R.id.entry_more);
        more.setContentDescription(getString(R.string.more_of, entry.title()));
        Actions actions = actions(entry, never == null);
        more.setOnClickListener(view -> actions.show(entry.title()));
        more.setVisibility(actions.isEmpty() ? View.GONE : View.VISIBLE);
    }

    private String facts(Entry entry) {
        if (entry.first().bundle == null) {
            return getString(entry.first().folder == null ? R.string.of_the_app : R.string.imported);
        }
        qexport.core.Bundle largest = entry.first().bundle;
        qexport.core.Bundle smallest = entry.variants.get(entry.variants.size() - 1).bundle;
        String place = getString(entry.first().folder == null ? R.string.of_the_app : R.string.imported);
        String task = Texts.task(this, largest.task());
        if (smallest == largest) {
            return getString(R.string.facts, task, largest.runtime(), Texts.size(this, Entry.size(largest)),
                    Texts.size(this, Entry.memory(largest)), place);
        }
        return getString(R.string.facts_sizes, task, largest.runtime(), entry.variants.size(),
                Texts.size(this, Entry.memory(smallest)), Texts.size(this, Entry.memory(largest)), place);
    }

    private void open(Choice choice, String task) {
        startActivity(ModelPage.intent(this, page(task), choice));
    }

    private static Class<? extends ModelPage> page(String task) {
        switch (task) {
            case "feature-extraction":
                return SearchActivity.class;
            case "text-classification":
                return SentimentActivity.class;
            case "automatic-speech-recognition":
                return SpeechActivity.class;
            default:
                return ChatActivity.class;
        }
    }

    private Actions actions(Entry entry, boolean runs) {
        Actions actions = new Actions(this);
        if (runs && entry.choice.group) {
            actions.add(getString(R.string.choose_size), () -> chooseSize(entry));
        }
        if (runs) {
            actions.add(getString(R.string.self_test),
                    () -> startActivity(ModelPage.intent(this, SelfTestActivity.class, entry.choice)));
        }
        if (entry.first().bundle != null && entry.first().bundle.license() != null) {
            actions.add(getString(R.string.licence), () -> showLicence(entry.first()));
        }
        for (Found variant : entry.variants) {
            if (variant.folder != null) {
                actions.add(getString(R.string.delete_one, variant.id), () -> askToDelete(variant));
            }
        }
        return actions;
    }

    private void chooseSize(Entry entry) {
        Actions sizes = new Actions(this);
        for (Found variant : entry.variants) {
            qexport.core.Bundle bundle = variant.bundle;
            sizes.add(getString(R.string.one_size, bundle.title(), Texts.size(this, Entry.memory(bundle))),
                    () -> open(new Choice(variant.id, false), bundle.task()));
        }
        sizes.show(getString(R.string.choose_size));
    }

    private void askToDelete(Found found) {
        String title = found.bundle == null ? found.id : found.bundle.title();
        show(new AlertDialog.Builder(this).setMessage(getString(R.string.delete_sure, title))
                .setPositiveButton(R.string.delete, (dialog, which) -> app.library.delete(found, app.models))
                .setNegativeButton(R.string.cancel, null));
    }

    private void showLicence(Found found) {
        try {
            read(found.bundle.title(), Streams.text(found.files, found.bundle.license()));
        } catch (IOException e) {
            say(found.bundle.title(), Failures.sentence(e));
        }
    }

    /** A text of any length, by paragraphs: a single view of a book takes seconds. */
    private void read(String title, String text) {
        ListView paragraphs = new ListView(this);
        paragraphs.setAdapter(new ArrayAdapter<>(this, R.layout.paragraph, text.trim().split("\\n\\s*\\n")));
        show(new AlertDialog.Builder(this).setTitle(title).setView(paragraphs)
                .setPositiveButton(R.string.close, null));
    }

    private void say(String title, String text) {
        show(new AlertDialog.Builder(this).setTitle(title).setMessage(text)
                .setPositiveButton(R.string.close, null));
    }

    private void show(Library.Import now) {
        boolean ended = !now.running && (now.id != null || now.problem != null);
        findViewById(R.id.work).setVisibility(now.running || ended ? View.VISIBLE : View.GONE);
        findViewById(R.id.take).setEnabled(!now.running);
        set((TextView) findViewById(R.id.work_text), now.running ? getString(R.string.importing)
                : now.problem != null ? now.problem : now.id != null ? getString(R.string.import_done, now.id) : "");
        ProgressBar bar = (ProgressBar) findViewById(R.id.work_bar);
        bar.setVisibility(now.running ? View.VISIBLE : View.GONE);
        bar.setIndeterminate(now.all == 0);
        bar.setProgress(now.all == 0 ? 0 : (int) (1000 * now.done / now.all));
        Button button = (Button) findViewById(R.id.work_button);
        button.setText(now.running ? R.string.cancel : R.string.close);
        button.setOnClickListener(view -> {
            if (now.running) {
                app.library.cancelImport();
            } else {
                app.library.forgetImport();
            }
        });
    }
}
