package qexport.app;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.Test;
import qexport.core.Bundle;
import qexport.core.BundleException;
import qexport.core.VariantChoice;

public class CatalogTest {
    private static final String TITLE = "'Tiny, int4'";
    private static final long MIB = 1 << 20;

    @Test
    public void variantsAreOneEntry() throws Exception {
        Catalog catalog = sizes("Tiny, int4", "Tiny, int8");
        assertEquals(2, catalog.entries.size());
        Entry group = catalog.entries.get(1);
        assertEquals("Tiny", group.title());
        assertEquals(new Choice("g", true), group.choice);
        assertEquals("large", group.first().id);
        assertEquals(group.variants, catalog.entry(Choice.of("+g")).variants);
        assertEquals("small", catalog.entry(Choice.of("small")).first().id);
        assertNull(catalog.entry(Choice.of("g")));
        assertEquals("g", sizes("Tiny, int4", "Other, int8").entries.get(1).title());
    }

    @Test
    public void theLargestThatFitsComesFirst() throws Exception {
        Entry group = sizes("Tiny, int4", "Tiny, int8").entry(Choice.of("+g"));
        assertEquals(Arrays.asList("large", "small"), ids(group.fitting(device(64), VariantChoice.ANY_RANK)));
        assertEquals(Arrays.asList("small"), ids(group.fitting(device(64), 0)));
        assertEquals(Arrays.asList("small"), ids(group.fitting(device(8), VariantChoice.ANY_RANK)));
        assertNull(group.notNow(device(8)));
        assertEquals("Not even the smallest variant fits: Tiny, int4 needs 2 MiB with a context of 64 tokens, 1 MiB"
                + " are free; close other apps or choose a smaller variant", group.notNow(device(1)));
        assertNull(group.never(device(1)));
    }

    @Test
    public void sayWhyItNeverRuns() throws Exception {
        assertEquals("Tiny, int4 is for executorch, which this build of the app does not carry; install the build that"
                + " does, or bundle the model's file for onnxruntime",
                never("'runtime':'onnxruntime'", "'runtime':'executorch'"));
        assertEquals("Tiny, int4 is for x86_64, this device has arm64-v8a; export it for this device",
                never("'abis':['arm64-v8a']", "'abis':['x86_64']"));
        assertTrue(never("'min_runtime':'1.23'", "'min_runtime':'1.30'").contains("needs onnxruntime 1.30"));
        assertEquals("Tiny, int4 is for fill-mask, for which this app has no page; update the app",
                never("'task':'text-generation'", "'task':'fill-mask'"));
        assertNull(never(TITLE, "'Tiny'"));
    }

    @Test
    public void aVariantThatNeverRunsIsPassedOver() throws Exception {
        Catalog catalog = new Catalog(Arrays.asList(
                variant("small", 0, "Tiny, int4", 1),
                Samples.found("large", "'model':", "'variant':{'group':'g','rank':1},'model':",
                        "'runtime':'onnxruntime'", "'runtime':'executorch'")));
        Entry group = catalog.entry(Choice.of("+g"));
        assertNull(group.never(device(64)));
        assertEquals(Arrays.asList("small"), ids(group.fitting(device(64), VariantChoice.ANY_RANK)));
    }

    @Test
    public void anImportedModelHidesTheAppsOwn() throws Exception {
        Found own = Samples.found("tiny");
        Found imported = new Found("tiny", own.bundle, null, null, new File("imported"));
        Catalog catalog = new Catalog(Arrays.asList(imported, own));
        assertEquals(1, catalog.entries.size());
        assertSame(imported, catalog.found("tiny"));
    }

    @Test
    public void aBrokenBundleIsShownWithItsProblem() {
        Catalog catalog = new Catalog(Collections.singletonList(new Found("x", null, "bundle.json: no", null, null)));
        Entry entry = catalog.entries.get(0);
        assertEquals("x", entry.title());
        assertEquals("bundle.json: no", entry.never(device(64)));
        BundleException problem = assertThrows(BundleException.class, () -> entry.fitting(device(64), 0));
        assertEquals("bundle.json: no", problem.getMessage());
    }

    private static Catalog sizes(String small, String large) throws BundleException {
        return new Catalog(Arrays.asList(variant("small", 0, small, 1), variant("large", 1, large, 32),
                Samples.found("alone", TITLE, "'Alone'")));
    }

    private static Found variant(String id, int rank, String title, long mebibytes) throws BundleException {
        return Samples.found(id, "'model':", "'variant':{'group':'g','rank':" + rank + "},'model':",
                TITLE, "'" + title + "'", "'load_bytes':1048576", "'load_bytes':" + mebibytes * MIB);
    }

    private static String never(String from, String to) throws BundleException {
        return new Catalog(Collections.singletonList(Samples.found("a", from, to))).entries.get(0).never(device(64));
    }

    private static Device device(long mebibytes) {
        Map<String, String> runtimes = new TreeMap<>();
        runtimes.put("onnxruntime", "1.29.0");
        return new Device(Samples.list("arm64-v8a"), runtimes, (mebibytes + 100) * MIB, 100 * MIB);
    }

    private static List<String> ids(List<Bundle> bundles) {
        List<String> ids = new java.util.ArrayList<>();
        for (Bundle bundle : bundles) {
            ids.add(bundle.id());
        }
        return ids;
    }
}
