package qexport.app;

import android.content.Intent;
import android.os.Bundle;
import android.text.Editable;
import android.text.TextWatcher;
import android.view.LayoutInflater;
import android.view.View;
import android.widget.Button;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.ScrollView;
import android.widget.TextView;
import java.util.List;
import qexport.core.Chat.Message;

/** The conversation with a language model. */
public final class ChatActivity extends ModelPage {
    private final State.Listener<ChatWork.Snapshot> listener = this::show;
    private LinearLayout messages;
    private ScrollView scroll;
    private EditText input;
    private Button send;
    private ChatWork.Snapshot shown;
    private String notes = "";
    private EnergyWatch energy;

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        show(R.layout.chat, getString(R.string.task_chat));
        energy = new EnergyWatch(app.energy);
        messages = (LinearLayout) findViewById(R.id.messages);
        scroll = (ScrollView) findViewById(R.id.scroll);
        input = (EditText) findViewById(R.id.input);
        send = (Button) findViewById(R.id.send);
        send.setOnClickListener(view -> pressed());
        input.addTextChangedListener(new TextWatcher() {
            @Override
            public void beforeTextChanged(CharSequence text, int start, int count, int after) {
            }

            @Override
            public void onTextChanged(CharSequence text, int start, int before, int count) {
            }

            @Override
            public void afterTextChanged(Editable text) {
                enable();
            }
        });
    }

    @Override
    protected void onStart() {
        super.onStart();
        app.chat.state.forget(listener);  // a model that is loaded already has begun to listen
        app.chat.state.listen(listener);
    }

    @Override
    protected void onStop() {
        super.onStop();
        app.chat.state.forget(listener);
    }

    @Override
    void ready(Load load) {
        if (model.bundle.text().chat() == null) {
            input.setHint(R.string.completion_hint);
        }
        notes = String.join("\n", load.notes);
        app.chat.open(app.conversation(model.bundle));
        app.chat.state.forget(listener);
        app.chat.state.listen(listener);
    }

    @Override
    void fill(Actions actions) {
        if (model != null) {
            actions.add(getString(R.string.clear_chat), () -> app.chat.clear(model));
        }
        actions.add(getString(R.string.settings), () -> startActivity(new Intent(this, SettingsActivity.class)));
        actions.add(getString(R.string.self_test), () -> startActivity(intent(this, SelfTestActivity.class, choice)));
    }

    private void pressed() {
        if (shown.phase != ChatWork.Snapshot.Phase.IDLE) {
            app.chat.stop();
        } else if (model != null && input.length() > 0) {
            app.chat.send(model, input.getText().toString(), app.preferences.settings());
            input.setText("");
        }
    }

    private void enable() {
        boolean idle = shown == null || shown.phase == ChatWork.Snapshot.Phase.IDLE;
        send.setText(idle ? R.string.send : R.string.stop);
        send.setEnabled(!idle || model != null && input.length() > 0);
    }

    private void show(ChatWork.Snapshot next) {
        boolean atEnd = !scroll.canScrollVertically(1);
        shown = next;
        List<Message> said = next.messages;
        boolean answering = next.phase == ChatWork.Snapshot.Phase.ANSWERING;
        int count = said.size() + (answering ? 1 : 0);
        while (messages.getChildCount() > count) {
            messages.removeViewAt(messages.getChildCount() - 1);
        }
        for (int i = 0; i < count; i++) {
            Message message = i < said.size() ? said.get(i) : new Message("assistant", next.answer);
            if (i == messages.getChildCount()) {
                LayoutInflater.from(this).inflate(R.layout.message, messages);
            }
            bind(messages.getChildAt(i), message);
        }
        set((TextView) findViewById(R.id.status), status(next));
        showEnergy();
        if (next.returned != null) {
            input.setText(input.length() == 0 ? next.returned : next.returned + "\n" + input.getText());
            app.chat.took();
        }
        enable();
        if (atEnd) {
            scroll.post(() -> scroll.scrollTo(0, messages.getHeight()));
        }
    }

    private void bind(View view, Message message) {
        boolean mine = message.role().equals("user");
        view.setBackgroundResource(mine ? R.drawable.mine : R.drawable.card);
        set((TextView) view.findViewById(R.id.who), getString(mine ? R.string.you : R.string.model));
        set((TextView) view.findViewById(R.id.said), message.content());
    }

    private String status(ChatWork.Snapshot next) {
        switch (next.phase) {
            case READING:
                return next.all == 0 ? getString(R.string.reading)
                        : getString(R.string.reading_tokens, next.done, next.all);
            case ANSWERING:
                return getString(R.string.answering);
            default:
                String text = next.statistics == null ? notes : Texts.statistics(this, next.statistics, next.memory);
                return next.problem == null ? text : text.isEmpty() ? next.problem : text + "\n" + next.problem;
        }
    }

    private void showEnergy() {
        set((TextView) findViewById(R.id.energy), Texts.energy(this, app.preferences, energy.at(System.nanoTime())));
    }
}
