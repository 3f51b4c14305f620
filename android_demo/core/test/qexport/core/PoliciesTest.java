package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.junit.Test;

public class PoliciesTest {
    private static final long MIB = 1 << 20;

    @Test
    public void memoryIsWeighedBeforeLoading() throws BundleException {
        Bundle bundle = Samples.bundle();  // 1 MiB and 1 KiB for each token
        assertEquals(MIB + 64 * 1024, MemoryGate.needed(bundle, 64));
        assertNull(MemoryGate.whyNot(bundle, 1024, 3 * MIB, MIB));
        assertEquals("Tiny needs 3 MiB with a context of 1025 tokens, 2 MiB are free; choose a context of at most 1024 "
                + "tokens, close other apps or choose a smaller variant",
                MemoryGate.whyNot(bundle, 1025, 3 * MIB, MIB));
        assertEquals("Tiny needs 2 MiB with a context of 64 tokens, 0 MiB are free; close other apps or choose a "
                + "smaller variant", MemoryGate.whyNot(bundle, 64, MIB, 2 * MIB));
    }

    @Test
    public void theLargestVariantThatFits() throws BundleException {
        Bundle small = variant(0, 1);
        Bundle middle = variant(1, 10);
        Bundle large = variant(2, 100);
        List<Bundle> all = Arrays.asList(middle, large, small);
        assertEquals(large, VariantChoice.choose(all, "g", "arm64-v8a", 2048, 200 * MIB, MIB));
        assertEquals(middle, VariantChoice.choose(all, "g", "arm64-v8a", 2048, 50 * MIB, MIB));
        assertEquals(small, VariantChoice.choose(all, "g", "arm64-v8a", 2048, 5 * MIB, MIB));
        assertEquals("Not even the smallest variant fits: Tiny needs 2 MiB with a context of 64 tokens, 1 MiB are free; "
                + "close other apps or choose a smaller variant", refused(all, "g", "arm64-v8a"));
        assertEquals("No bundle is of variant group h; add one with `qexport bundle --variants`",
                refused(all, "h", "arm64-v8a"));
        assertEquals("No bundle of variant group g is for this processor (x86); export one for it",
                refused(all, "g", "x86"));
        refused(Collections.<Bundle>emptyList(), "g", "x86");
    }

    @Test
    public void theNextVariantWhereLoadingFails() throws BundleException {
        List<Bundle> fitting = VariantChoice.fitting(Arrays.asList(variant(1, 10), variant(2, 100), variant(0, 1)), "g",
                "arm64-v8a", 64, 50 * MIB, MIB, VariantChoice.ANY_RANK);
        assertEquals(2, fitting.size());
        VariantChoice.Loaded<String> loaded = VariantChoice.load(fitting, bundle -> {
            if (bundle.variantRank() > 0) {
                throw new EngineException("out of memory");
            }
            return "engine";
        });
        assertEquals("engine", loaded.value());
        assertEquals(0, loaded.bundle().variantRank());
        assertEquals(Arrays.asList("Tiny could not be loaded: out of memory"), loaded.notes());
        assertEquals(1, VariantChoice.load(fitting, Bundle::variantRank).value().intValue());
        assertEquals("No variant could be loaded. Tiny could not be loaded: no. Tiny could not be loaded: no",
                assertThrows(BundleException.class, () -> VariantChoice.load(fitting, bundle -> {
                    throw new BundleException("no");
                })).getMessage());
        assertThrows(BundleException.class,
                () -> VariantChoice.load(Collections.<Bundle>emptyList(), Bundle::title));
    }

    @Test
    public void aLimitOfRankLeavesTheSmallest() throws BundleException {
        List<Bundle> all = Arrays.asList(variant(2, 1), variant(1, 1), variant(3, 1));
        for (int most : new int[] {0, 1, 2, 3}) {
            List<Bundle> fitting = VariantChoice.fitting(all, "g", "arm64-v8a", 64, 50 * MIB, MIB, most);
            assertEquals(Math.max(1, most), fitting.get(0).variantRank());
            assertEquals(1, fitting.get(fitting.size() - 1).variantRank());
        }
    }

    @Test
    public void thePolicyLimitsVariantsAndCanBeOff() {
        assertEquals(VariantChoice.ANY_RANK, EnergyPolicy.decide(0, 80, false, false, 4).mostRank());
        assertEquals(VariantChoice.ANY_RANK, EnergyPolicy.decide(1, 80, false, false, 4).mostRank());
        assertEquals(0, EnergyPolicy.decide(2, 80, false, false, 4).mostRank());
        assertEquals(0, EnergyPolicy.decide(0, 14, false, false, 4).mostRank());
        assertEquals(0, EnergyPolicy.decide(0, 80, false, true, 4).mostRank());
        decided(EnergyPolicy.off(8), true, 4, 0, null);
        assertEquals(VariantChoice.ANY_RANK, EnergyPolicy.off(8).mostRank());
    }

    @Test
    public void heatAndBatteryLowerTheWork() {
        decided(EnergyPolicy.decide(0, 80, false, false, 8), true, 4, 0, null);
        decided(EnergyPolicy.decide(0, -1, false, false, 1), true, 1, 0, null);
        decided(EnergyPolicy.decide(1, 80, false, false, 4), true, 3, 0,
                "The device is getting warm; one thread rests");
        decided(EnergyPolicy.decide(2, 80, true, false, 4), true, 2, 50,
                "The device is warm; answers come more slowly");
        decided(EnergyPolicy.decide(3, 80, true, false, 4), false, 1, 0, "The device is too hot; let it cool down");
        decided(EnergyPolicy.decide(0, 4, false, false, 4), false, 1, 0,
                "The battery is at 4 %; plug the device in");
        decided(EnergyPolicy.decide(0, 4, true, true, 4), true, 4, 0, null);
        decided(EnergyPolicy.decide(0, 14, false, false, 4), true, 2, 0,
                "The battery is at 14 %; answers come more slowly");
        decided(EnergyPolicy.decide(0, 80, false, true, 4), true, 2, 0,
                "The device saves power; answers come more slowly");
    }

    private static void decided(EnergyPolicy.Decision decision, boolean run, int threads, int pause, String reason) {
        if (run) {
            assertTrue(decision.run());
        } else {
            assertFalse(decision.run());
        }
        assertEquals(threads, decision.threads());
        assertEquals(pause, decision.pauseMillis());
        assertEquals(reason, decision.reason());
    }

    private static Bundle variant(int rank, int mebibytes) throws BundleException {
        return Bundle.parse(Samples.json(Samples.BUNDLE.replace("'rank':1", "'rank':" + rank)
                .replace("'load_bytes':1048576", "'load_bytes':" + mebibytes * MIB)));
    }

    private static String refused(List<Bundle> bundles, String group, String abi) {
        return assertThrows(BundleException.class,
                () -> VariantChoice.choose(bundles, group, abi, 2048, 2 * MIB, MIB)).getMessage();
    }
}
