package qexport.app;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Executor;
import java.util.concurrent.atomic.AtomicReference;
import qexport.core.EngineException;
import qexport.core.Label;
import qexport.core.Search;

/** Search and judgement of texts with the loaded encoder. */
final class EncoderWork {
    /** A text or a label, and the number that belongs to it. */
    static final class Row {
        final String text;
        final double value;

        Row(String text, double value) {
            this.text = text;
            this.value = value;
        }
    }

    /** What the pages show. */
    static final class Snapshot {
        static final Snapshot NONE =
                new Snapshot(null, false, 0, 0, Collections.<Row>emptyList(), 0, 0, null);

        /** Key of the model that worked; null: none yet. */
        final Object key;
        final boolean running;
        /** Texts read, of all. */
        final int done;
        final int all;
        /** The best first. */
        final List<Row> rows;
        /** How many texts were longer than the model reads. */
        final int cut;
        final double seconds;
        final String problem;

        Snapshot(Object key, boolean running, int done, int all, List<Row> rows, int cut, double seconds,
                String problem) {
            this.key = key;
            this.running = running;
            this.done = done;
            this.all = all;
            this.rows = rows;
            this.cut = cut;
            this.seconds = seconds;
            this.problem = problem;
        }
    }

    private static final int MOST_HITS = 20;

    final State<Snapshot> state;
    private final Worker worker;
    private final EnergyWatch.Source energy;
    /** Holds null when none runs or waits, since a job holds the model. */
    private final AtomicReference<Work> work = new AtomicReference<>();
    private Object indexed;  // a model's key; of the worker, with the next three
    private List<String> texts = Collections.emptyList();
    private Search search;
    private int cutTexts;

    EncoderWork(Worker worker, Executor main, EnergyWatch.Source energy) {
        this.worker = worker;
        this.energy = energy;
        state = new State<>(main, Snapshot.NONE);
    }

    /** Finds the texts that are nearest to the query; lines that were read before are not read again. */
    void search(Model model, String lines, String query) {
        start(new Work(model, lines(lines), query));
    }

    /** Judges a text. */
    void judge(Model model, String text) {
        start(new Work(model, null, text));
    }

    /** Ends it before the next text. */
    void stop() {
        Work running = work.get();
        if (running != null) {
            running.stop();
        }
    }

    /** The lines that are not empty, without space around them. */
    static List<String> lines(String text) {
        List<String> result = new ArrayList<>();
        for (String line : text.split("\n")) {
            if (!line.trim().isEmpty()) {
                result.add(line.trim());
            }
        }
        return result;
    }

    private void start(Work next) {
        work.set(next);
        state.set(new Snapshot(next.model.key, true, 0, 0, Collections.<Row>emptyList(), 0, 0, null));
        worker.run(next);
    }

    private final class Work extends ModelJob {
        private final List<String> lines;  // null: judge
        private final String text;

        Work(Model model, List<String> lines, String text) {
            super(model, energy);
            this.lines = lines;
            this.text = text;
        }

        @Override
        public void run() {
            try {
                long start = System.nanoTime();
                List<Row> rows = !mayGoOn() ? Collections.<Row>emptyList() : lines == null ? judged() : found();
                int cut = (model.encoder.cut(text) ? 1 : 0) + (lines == null ? 0 : cutTexts);
                state.set(new Snapshot(model.key, false, 0, 0, rows, cut, (System.nanoTime() - start) / 1e9, reason));
            } catch (EngineException | RuntimeException | VirtualMachineError | LinkageError e) {
                state.set(new Snapshot(model.key, false, 0, 0, Collections.<Row>emptyList(), 0, 0,
                        Failures.sentence(e)));
            } finally {
                work.compareAndSet(this, null);
            }
        }

        private List<Row> judged() throws EngineException {
            List<Row> rows = new ArrayList<>();
            for (Label label : model.encoder.classify(text)) {
                rows.add(new Row(label.name(), label.probability()));
            }
            return rows;
        }

        private List<Row> found() throws EngineException {
            read();
            List<Row> rows = new ArrayList<>();
            for (Search.Hit hit : mayGoOn() ? search.find(text, MOST_HITS) : Collections.<Search.Hit>emptyList()) {
                rows.add(new Row(hit.text(), hit.score()));
            }
            return rows;
        }

        private void read() throws EngineException {
            if (lines.isEmpty()) {
                throw new EngineException("There are no texts to search; write at least one");
            }
            if (model.key == indexed && lines.equals(texts)) {
                return;
            }
            indexed = null;
            texts = lines;
            search = new Search(model.encoder);
            cutTexts = 0;
            for (int i = 0; i < lines.size(); i++) {
                if (!mayGoOn()) {
                    return;
                }
                search.add(lines.get(i));
                cutTexts += model.encoder.cut(lines.get(i)) ? 1 : 0;
                state.set(new Snapshot(model.key, true, i + 1, lines.size(), Collections.<Row>emptyList(), 0, 0, null));
            }
            indexed = model.key;
        }
    }
}
