package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Chooses among the sizes of one model the largest that fits, and the next where loading fails. */
public final class VariantChoice {
    /** No limit of rank: see {@link #fitting}. */
    public static final int ANY_RANK = Integer.MAX_VALUE;

    /** Loads a bundle, for {@link #load}. */
    public interface Loader<T> {
        /** What the bundle's files give, such as an engine. */
        T load(Bundle bundle) throws BundleException, EngineException;
    }

    /** What was loaded, and what was tried before. */
    public static final class Loaded<T> {
        private final Bundle bundle;
        private final T value;
        private final List<String> notes;

        Loaded(Bundle bundle, T value, List<String> notes) {
            this.bundle = bundle;
            this.value = value;
            this.notes = Collections.unmodifiableList(notes);
        }

        /** The variant that runs. */
        public Bundle bundle() {
            return bundle;
        }

        /** What the loader gave. */
        public T value() {
            return value;
        }

        /** For each larger variant that did not load a sentence for a person. */
        public List<String> notes() {
            return notes;
        }
    }

    private VariantChoice() {
    }

    /** The first of {@link #fitting}, of any rank. */
    public static Bundle choose(List<Bundle> bundles, String group, String abi, int context, long available,
            long threshold) throws BundleException {
        return fitting(bundles, group, abi, context, available, threshold, ANY_RANK).get(0);
    }

    /**
     * The bundles of the group that fit the memory and the processor, the highest rank first.
     *
     * @param abi the device's processor, such as arm64-v8a
     * @param context tokens of context that are to be held; less where a model holds less
     * @param available see {@link MemoryGate#whyNot}
     * @param threshold see {@link MemoryGate#whyNot}
     * @param mostRank larger ones are left out, but never the smallest (see {@link EnergyPolicy.Decision#mostRank})
     * @throws BundleException when none fits: why not the smallest
     */
    public static List<Bundle> fitting(List<Bundle> bundles, String group, String abi, int context, long available,
            long threshold, int mostRank) throws BundleException {
        List<Bundle> here = here(bundles, group, abi);
        Bundle smallest = here.get(here.size() - 1);
        List<Bundle> result = new ArrayList<>();
        for (Bundle bundle : here) {
            boolean allowed = bundle.variantRank() <= mostRank || bundle == smallest;
            if (allowed && MemoryGate.whyNot(bundle, context(bundle, context), available, threshold) == null) {
                result.add(bundle);
            }
        }
        if (result.isEmpty()) {
            throw new BundleException("Not even the smallest variant fits: "
                    + MemoryGate.whyNot(smallest, context(smallest, context), available, threshold));
        }
        return result;
    }

    /**
     * Loads the first that can be loaded.
     *
     * @param fitting of {@link #fitting}
     * @throws BundleException when none can: why not, for each
     */
    public static <T> Loaded<T> load(List<Bundle> fitting, Loader<T> loader) throws BundleException {
        List<String> notes = new ArrayList<>();
        Exception last = null;
        for (Bundle bundle : fitting) {
            try {
                return new Loaded<>(bundle, loader.load(bundle), notes);
            } catch (BundleException | EngineException e) {
                notes.add(bundle.title() + " could not be loaded: " + e.getMessage());
                last = e;
            }
        }
        throw new BundleException(fitting.isEmpty() ? "There is no variant to load; add one with `qexport bundle`"
                : "No variant could be loaded. " + String.join(". ", notes), last);
    }

    /** The group's bundles for this processor, the highest rank first; at least one. */
    private static List<Bundle> here(List<Bundle> bundles, String group, String abi) throws BundleException {
        boolean any = false;
        List<Bundle> result = new ArrayList<>();
        for (Bundle bundle : bundles) {
            if (group.equals(bundle.variantGroup())) {
                any = true;
                if (bundle.abis().contains(abi)) {
                    result.add(bundle);
                }
            }
        }
        if (!any) {
            throw new BundleException("No bundle is of variant group " + group
                    + "; add one with `qexport bundle --variants`");
        }
        if (result.isEmpty()) {
            throw new BundleException("No bundle of variant group " + group + " is for this processor (" + abi
                    + "); export one for it");
        }
        Collections.sort(result, (a, b) -> Integer.compare(b.variantRank(), a.variantRank()));
        return result;
    }

    private static int context(Bundle bundle, int context) {
        return bundle.text() == null ? 0 : Math.min(context, bundle.text().context());
    }
}
