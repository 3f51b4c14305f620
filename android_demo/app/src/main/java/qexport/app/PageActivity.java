package qexport.app;

import android.app.Activity;
import android.app.AlertDialog;
import android.os.Bundle;
import android.view.View;
import android.widget.TextView;

/** What every page has: room for the system's bars, a title, a way back, a menu. */
abstract class PageActivity extends Activity {
    DemoApplication app;
    private AlertDialog dialog;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        app = DemoApplication.of(this);
    }

    @Override
    protected void onDestroy() {
        super.onDestroy();
        if (dialog != null) {
            dialog.dismiss();  // a rotation would leave it with a page that is gone
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.shown();
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.hidden();
    }

    /** Shows the page's layout, whose header is bound here. */
    void show(int layout, CharSequence title) {
        setContentView(layout);
        title(title);
        findViewById(R.id.back).setOnClickListener(view -> finish());
        findViewById(R.id.more).setOnClickListener(this::openMenu);
        // from Android 15 pages lie under the bars, the cutout and the keyboard; these insets are all of them together
        findViewById(R.id.root).setOnApplyWindowInsetsListener((view, insets) -> {
            view.setPadding(insets.getSystemWindowInsetLeft(), insets.getSystemWindowInsetTop(),
                    insets.getSystemWindowInsetRight(), insets.getSystemWindowInsetBottom());
            return insets.consumeSystemWindowInsets();
        });
    }

    void title(CharSequence title) {
        setTitle(title);  // what a screen reader says when the page opens
        ((TextView) findViewById(R.id.title)).setText(title);
    }

    /** Shows a dialog that goes with the page. */
    void show(AlertDialog.Builder next) {
        dialog = next.show();
    }

    /** Adds the page's own items. */
    void fill(Actions actions) {
    }

    private void openMenu(View button) {
        Actions actions = new Actions(this);
        fill(actions);
        actions.show(getTitle().toString());
    }

    /** A text with nothing in it takes no room. */
    static void set(TextView view, CharSequence text) {
        boolean empty = text == null || text.length() == 0;
        view.setVisibility(empty ? View.GONE : View.VISIBLE);
        if (!empty && !text.toString().contentEquals(view.getText())) {  // a live region would say it again
            view.setText(text);
        }
    }
}
