package qexport.app;

/** What a person wants to use: a model, or a group of sizes among which the app chooses. */
final class Choice {
    final String name;
    final boolean group;

    Choice(String name, boolean group) {
        this.name = name;
        this.group = group;
    }

    /** As text, for an Intent or a file's name: + begins a group's. */
    String key() {
        return group ? "+" + name : name;
    }

    static Choice of(String key) {
        return key.startsWith("+") ? new Choice(key.substring(1), true) : new Choice(key, false);
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Choice && ((Choice) other).key().equals(key());
    }

    @Override
    public int hashCode() {
        return key().hashCode();
    }
}
