package qexport.app;

import java.io.File;
import java.io.IOException;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.LongSupplier;
import qexport.core.Chat.Message;
import qexport.core.EngineException;
import qexport.core.Generation;
import qexport.core.Settings;
import qexport.core.Statistics;

/** A conversation with a model: answers run on the worker, the page shows snapshots. */
final class ChatWork {
    /** What the page shows. */
    static final class Snapshot {
        /** IDLE: the next message can be sent. */
        enum Phase { IDLE, READING, ANSWERING }

        final Phase phase;
        final List<Message> messages;
        /** The answer so far. */
        final String answer;
        /** Tokens of the prompt read, and all. */
        final int done;
        final int all;
        /** Of the last answer; null: none yet. */
        final Statistics statistics;
        /** Kilobytes of memory after it. */
        final long memory;
        /** Why it was slowed or ended, or failed; null: it was not. */
        final String problem;
        /** What was typed and could not be answered, to be typed again; null: nothing. Each is told once. */
        final String returned;

        Snapshot(Phase phase, List<Message> messages, String answer, int done, int all, Statistics statistics,
                long memory, String problem, String returned) {
            this.phase = phase;
            this.messages = messages;
            this.answer = answer;
            this.done = done;
            this.all = all;
            this.statistics = statistics;
            this.memory = memory;
            this.problem = problem;
            this.returned = returned;
        }
    }

    private static final long SAVE_NANOS = 2_000_000_000L;

    final State<Snapshot> state;
    private final Worker worker;
    private final EnergyWatch.Source energy;
    private final LongSupplier memory;
    private File file;  // of the main thread
    /** Holds null when none runs or waits, since a job holds the model. */
    private final AtomicReference<Answer> running = new AtomicReference<>();
    private Conversation conversation;  // of the worker

    /** `memory`: kilobytes that the process holds. */
    ChatWork(Worker worker, Executor main, EnergyWatch.Source energy, LongSupplier memory) {
        this.worker = worker;
        this.energy = energy;
        this.memory = memory;
        state = new State<>(main, idle(Collections.<Message>emptyList(), null, 0, null, null));
    }

    /** Goes on with the conversation that the file holds. */
    void open(File next) {
        if (next.equals(file)) {
            return;
        }
        file = next;
        stop();
        state.set(idle(Collections.<Message>emptyList(), null, 0, null, null));
        worker.run(() -> {
            conversation = new Conversation(next);
            state.set(idle(conversation.messages(), null, 0, null, null));
        });
    }

    /** Answers. */
    void send(Model model, String text, Settings settings) {
        Answer answer = new Answer(model, text, settings);
        running.set(answer);
        worker.run(answer);
    }

    /** Ends the answer that runs; what there is of it stays. */
    void stop() {
        Answer answer = running.get();
        if (answer != null) {
            answer.stop();
        }
    }

    /** Forgets the conversation, on the storage too. */
    void clear(Model model) {
        stop();
        worker.run(() -> {
            String problem = null;
            try {
                conversation.clear();
                model.generation.reset();
            } catch (IOException e) {
                problem = Failures.sentence(e);
            }
            state.set(idle(conversation.messages(), null, 0, problem, null));
        });
    }

    /** The page has put the returned text into its field. */
    void took() {
        Snapshot now = state.get();
        state.set(new Snapshot(now.phase, now.messages, now.answer, now.done, now.all, now.statistics, now.memory,
                now.problem, null));
    }

    private static Snapshot idle(List<Message> messages, Statistics statistics, long memory, String problem,
            String returned) {
        return new Snapshot(Snapshot.Phase.IDLE, messages, "", 0, 0, statistics, memory, problem, returned);
    }

    private final class Answer extends ModelJob implements Generation.Listener {
        private final String text;
        private final Settings settings;
        private final StringBuilder said = new StringBuilder();
        private long saved = System.nanoTime();
        private volatile boolean reading = true;

        Answer(Model model, String text, Settings settings) {
            super(model, energy);
            this.text = text;
            this.settings = settings;
        }

        @Override
        void cancel() {
            model.generation.cancel();
            if (reading) {  // a long prompt takes seconds; a token of an answer does not
                model.interrupt.run();
            }
        }

        @Override
        void pause(int millis) {
            model.generation.pause(millis);
        }

        @Override
        public void run() {
            conversation.add("user", text);
            show(Snapshot.Phase.READING, 0, 0);
            Statistics statistics = null;
            String problem = null;
            try {
                conversation.save("");
                if (mayGoOn()) {
                    statistics = model.generation.run(model.chat.encode(conversation.messages()), settings, this);
                }
                problem = reason;
            } catch (EngineException | IOException | RuntimeException | VirtualMachineError | LinkageError e) {
                problem = stopped() ? Statistics.End.CANCELLED.reason() : Failures.sentence(e);
            }
            end(statistics, problem);
        }

        /** An answer stays, though it may be a part; a message without any goes back to who wrote it. */
        private void end(Statistics statistics, String problem) {
            boolean answered = said.length() > 0
                    || statistics != null && statistics.end() != Statistics.End.CANCELLED;
            if (answered) {
                conversation.add("assistant", said.toString());
            } else {
                conversation.removeLast();
            }
            try {
                conversation.save("");
            } catch (IOException e) {
                problem = problem == null ? Failures.sentence(e) : problem;
            }
            running.compareAndSet(this, null);
            state.set(idle(conversation.messages(), statistics, memory.getAsLong(), problem,
                    answered ? null : text));
        }

        @Override
        public void prefilled(int done, int all) {
            mayGoOn();
            show(Snapshot.Phase.READING, done, all);
        }

        @Override
        public void text(String piece) {
            reading = false;
            said.append(piece);
            mayGoOn();
            show(Snapshot.Phase.ANSWERING, 0, 0);
            if (System.nanoTime() - saved > SAVE_NANOS) {
                saved = System.nanoTime();
                try {
                    conversation.save(said.toString());
                } catch (IOException e) {
                    reason = Failures.sentence(e);  // told at the end; the answer itself goes on
                }
            }
        }

        private void show(Snapshot.Phase phase, int done, int all) {
            state.set(new Snapshot(phase, conversation.messages(), said.toString(), done, all, null, 0, null, null));
        }
    }
}
