package qexport.core;

import java.util.List;

/** Chooses among the sizes of one model the largest that fits. */
public final class VariantChoice {
    private VariantChoice() {
    }

    /**
     * The bundle of the group's highest rank that fits the memory and the processor.
     *
     * @param abi the device's processor, such as arm64-v8a
     * @param context tokens of context that are to be held; less where a model holds less
     * @param available see {@link MemoryGate#whyNot}
     * @param threshold see {@link MemoryGate#whyNot}
     * @throws BundleException when none fits: why not the smallest
     */
    public static Bundle choose(List<Bundle> bundles, String group, String abi, int context, long available,
            long threshold) throws BundleException {
        Bundle best = null;
        Bundle smallest = null;
        boolean any = false;
        for (Bundle bundle : bundles) {
            if (!group.equals(bundle.variantGroup())) {
                continue;
            }
            any = true;
            if (!bundle.abis().contains(abi)) {
                continue;
            }
            if (smallest == null || bundle.variantRank() < smallest.variantRank()) {
                smallest = bundle;
            }
            if (MemoryGate.whyNot(bundle, context(bundle, context), available, threshold) == null
                    && (best == null || bundle.variantRank() > best.variantRank())) {
                best = bundle;
            }
        }
        if (!any) {
            throw new BundleException("No bundle is of variant group " + group
                    + "; add one with `qexport bundle --variants`");
        }
        if (smallest == null) {
            throw new BundleException("No bundle of variant group " + group + " is for this processor (" + abi
                    + "); export one for it");
        }
        if (best == null) {
            throw new BundleException("Not even the smallest variant fits: "
                    + MemoryGate.whyNot(smallest, context(smallest, context), available, threshold));
        }
        return best;
    }

    private static int context(Bundle bundle, int context) {
        return bundle.text() == null ? 0 : Math.min(context, bundle.text().context());
    }
}
