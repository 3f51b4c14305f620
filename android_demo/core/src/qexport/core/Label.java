package qexport.core;

/** One label and how likely the model holds it. */
public final class Label {
    private final String name;
    private final double probability;

    Label(String name, double probability) {
        this.name = name;
        this.probability = probability;
    }

    /** As the model's configuration names it. */
    public String name() {
        return name;
    }

    /** 0 to 1; over all labels they sum up to 1. */
    public double probability() {
        return probability;
    }
}
