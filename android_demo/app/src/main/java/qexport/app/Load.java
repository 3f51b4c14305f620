package qexport.app;

import java.util.Collections;
import java.util.List;

/** How far a model is loaded. */
final class Load {
    /** The steps, and how they can end. */
    enum Phase { NONE, WAITING, COPYING, CHECKING, OPENING, READY, FAILED, CANCELLED }

    static final Load NONE = new Load(null, Phase.NONE, 0, 0, null, null, Collections.<String>emptyList());

    final Choice choice;
    final Phase phase;
    final long done;
    final long all;
    /** Why it failed; null: it did not. */
    final String problem;
    /** Null unless READY. */
    final Model model;
    /** Which larger variants could not be loaded, and why. */
    final List<String> notes;

    private Load(Choice choice, Phase phase, long done, long all, String problem, Model model, List<String> notes) {
        this.choice = choice;
        this.phase = phase;
        this.done = done;
        this.all = all;
        this.problem = problem;
        this.model = model;
        this.notes = notes;
    }

    static Load at(Choice choice, Phase phase, long done, long all) {
        return new Load(choice, phase, done, all, null, null, Collections.<String>emptyList());
    }

    static Load failed(Choice choice, String problem) {
        return new Load(choice, Phase.FAILED, 0, 0, problem, null, Collections.<String>emptyList());
    }

    static Load ready(Choice choice, Model model, List<String> notes) {
        return new Load(choice, Phase.READY, 0, 0, null, model, notes);
    }
}
