package qexport.app;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import qexport.core.Bundle;
import qexport.core.BundleException;
import qexport.core.BundleFile;
import qexport.core.BundleFit;
import qexport.core.MemoryGate;
import qexport.core.VariantChoice;

/** One line of the picker: a model, or the sizes of one model. */
final class Entry {
    /** Tasks that have a page. */
    static final List<String> TASKS = Collections.unmodifiableList(Arrays.asList(
            "text-generation", "feature-extraction", "text-classification", "automatic-speech-recognition"));

    final Choice choice;
    /** The highest rank first; at least one. */
    final List<Found> variants;

    Entry(Choice choice, List<Found> variants) {
        this.choice = choice;
        this.variants = variants;
    }

    /** The first variant, whose task and runtime stand for all. */
    Found first() {
        return variants.get(0);
    }

    /** The model's name; of a group what the titles have in common before the last comma, or else the group's. */
    String title() {
        if (first().bundle == null) {
            return first().id;
        }
        if (!choice.group) {
            return first().bundle.title();
        }
        String common = null;
        for (Found variant : variants) {
            String title = variant.bundle.title();
            int comma = title.lastIndexOf(", ");
            String name = comma > 0 ? title.substring(0, comma) : title;
            if (common != null && !common.equals(name)) {
                return choice.name;
            }
            common = name;
        }
        return common;
    }

    /** Why it can never run in this app on this device; null: it can. */
    String never(Device device) {
        String reason = null;
        for (Found variant : variants) {
            reason = never(variant, device);
            if (reason == null) {
                return null;
            }
        }
        return reason;
    }

    /** Why it cannot be loaded now; null: it can. Only for one that {@link #never} has nothing against. */
    String notNow(Device device) {
        try {
            fitting(device, VariantChoice.ANY_RANK);
            return null;
        } catch (BundleException e) {
            return e.getMessage();
        }
    }

    /** What to try to load, in this order. */
    List<Bundle> fitting(Device device, int mostRank) throws BundleException {
        String never = never(device);
        if (never != null) {
            throw new BundleException(never);
        }
        if (choice.group) {
            return VariantChoice.fitting(bundlesFor(device), choice.name, device.abis.get(0), Integer.MAX_VALUE,
                    device.available, device.threshold, mostRank);
        }
        Bundle bundle = first().bundle;
        String memory = MemoryGate.whyNot(bundle, context(bundle), device.available, device.threshold);
        if (memory != null) {
            throw new BundleException(memory);
        }
        return Collections.singletonList(bundle);
    }

    private List<Bundle> bundlesFor(Device device) {
        List<Bundle> bundles = new ArrayList<>();
        for (Found variant : variants) {
            if (never(variant, device) == null) {
                bundles.add(variant.bundle);
            }
        }
        return bundles;
    }

    private static String never(Found found, Device device) {
        if (found.bundle == null) {
            return found.problem;
        }
        Bundle bundle = found.bundle;
        if (!TASKS.contains(bundle.task())) {
            return bundle.title() + " is for " + bundle.task() + ", for which this app has no page; update the app";
        }
        if (!device.runtimes.containsKey(bundle.runtime())) {
            return bundle.title() + " is for " + bundle.runtime() + ", which this build of the app does not carry; "
                    + "install the build that does, or bundle the model's file for "
                    + String.join(" or ", device.runtimes.keySet());
        }
        return BundleFit.whyNot(bundle, device.abis, bundle.runtime(), device.runtimes.get(bundle.runtime()));
    }

    /** Tokens of context that are held for it. */
    static int context(Bundle bundle) {
        return bundle.text() == null ? 0 : bundle.text().context();
    }

    /** Bytes of all its files. */
    static long size(Bundle bundle) {
        long size = 0;
        for (BundleFile file : bundle.files()) {
            size += file.bytes();
        }
        return size;
    }

    /** Bytes of memory that it takes with a full context. */
    static long memory(Bundle bundle) {
        return MemoryGate.needed(bundle, context(bundle));
    }
}
