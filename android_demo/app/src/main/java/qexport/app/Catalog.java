package qexport.app;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** All models that were found, as the picker shows them: variants of one group in one entry. */
final class Catalog {
    static final Catalog EMPTY = new Catalog(Collections.<Found>emptyList());

    final List<Entry> entries;
    private final Map<String, Found> byId = new LinkedHashMap<>();

    /** An imported model hides the app's own of the same name: give it first. */
    Catalog(List<Found> all) {
        for (Found found : all) {
            if (!byId.containsKey(found.id)) {
                byId.put(found.id, found);
            }
        }
        Map<Choice, List<Found>> groups = new LinkedHashMap<>();
        for (Found found : byId.values()) {
            String group = found.bundle == null ? null : found.bundle.variantGroup();
            Choice choice = group == null ? new Choice(found.id, false) : new Choice(group, true);
            List<Found> variants = groups.get(choice);
            if (variants == null) {
                variants = new ArrayList<>();
                groups.put(choice, variants);
            }
            variants.add(found);
        }
        List<Entry> made = new ArrayList<>();
        for (Map.Entry<Choice, List<Found>> group : groups.entrySet()) {
            if (group.getKey().group) {
                Collections.sort(group.getValue(),
                        (a, b) -> Integer.compare(b.bundle.variantRank(), a.bundle.variantRank()));
            }
            made.add(new Entry(group.getKey(), Collections.unmodifiableList(group.getValue())));
        }
        Collections.sort(made, (a, b) -> a.title().compareToIgnoreCase(b.title()));
        entries = Collections.unmodifiableList(made);
    }

    /** Null: no such model. */
    Found found(String id) {
        return byId.get(id);
    }

    /** The entry that a choice means, of one variant where it was chosen by hand; null: it is gone. */
    Entry entry(Choice choice) {
        if (!choice.group) {
            Found found = byId.get(choice.name);
            return found == null ? null : new Entry(choice, Collections.singletonList(found));
        }
        for (Entry entry : entries) {
            if (entry.choice.equals(choice)) {
                return entry;
            }
        }
        return null;
    }
}
