package qexport.app;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Map;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;

public class ImporterTest {
    private static final long ROOM = 1L << 40;
    private static final BundleCheck.Progress ON = (at, all) -> true;

    @Rule
    public TemporaryFolder folder = new TemporaryFolder();
    private final Map<String, String> contents = Samples.contents();
    private File models;

    @Before
    public void models() {
        models = folder.getRoot();
    }

    @Test
    public void copiesWholeFolders() throws Exception {
        long[] last = {0, 0};
        assertEquals("tiny", take(ROOM, (at, all) -> {
            assertTrue("backwards", at >= last[0]);
            last[0] = at;
            last[1] = all;
            return true;
        }));
        assertEquals(14, last[1]);
        assertEquals(14, last[0]);
        assertEquals("abc", read("tiny/model.ort"));
        Bundle bundle = Bundle.parse(read("tiny/bundle.json"));
        assertTrue(BundleCheck.verify(bundle, Streams.folder(new File(models, "tiny")), null));
        assertEquals(Arrays.asList("tiny"), Arrays.asList(models.list()));
    }

    @Test
    public void refusesAnotherByte() throws Exception {
        contents.put("model.ort", "abd");
        assertTrue(refused().startsWith("tiny/model.ort: changed: sha256 "));
    }

    @Test
    public void refusesWhatIsMissing() throws Exception {
        contents.remove("more/tokenizer.json");
        assertEquals("tiny/more/tokenizer.json: missing; choose the whole folder", refused());
        contents.remove("bundle.json");
        assertEquals("The folder holds no bundle.json; choose one that `qexport bundle` wrote", refused());
    }

    @Test
    public void refusesMoreBytesThanListed() throws Exception {
        contents.put("model.ort", "abcd");
        assertEquals("model.ort: longer than the 3 bytes listed; write the folder again with `qexport bundle`",
                refused());
    }

    @Test
    public void refusesWhereTheStorageIsFull() throws Exception {
        BundleException problem = assertThrows(BundleException.class, () -> take(5_000_000, ON));
        assertEquals("Tiny, int4 takes 1 MB and 68 MB must stay free, 5 MB are; delete something and import it again",
                problem.getMessage());
    }

    @Test
    public void cancelLeavesNothingAtAnyStep() throws Exception {
        for (int steps = 0; steps < 6; steps++) {
            int[] left = {steps};
            assertNull(take(ROOM, (at, all) -> left[0]-- > 0));
            assertEquals(0, models.list().length);
        }
    }

    @Test
    public void aFailureKeepsTheOldOne() throws Exception {
        take(ROOM, ON);
        contents.put("model.ort", "abd");
        assertThrows(BundleException.class, () -> take(ROOM, ON));
        assertEquals("abc", read("tiny/model.ort"));
    }

    @Test
    public void aNewOneReplacesTheOldOne() throws Exception {
        take(ROOM, ON);
        Files.write(new File(models, "tiny/old").toPath(), new byte[1]);
        take(ROOM, ON);
        assertFalse(new File(models, "tiny/old").exists());
        assertEquals(Arrays.asList("tiny"), Arrays.asList(models.list()));
    }

    @Test
    public void tidiesAfterAnEndedProcess() throws Exception {
        assertTrue(new File(models, ".import-tiny/more").mkdirs());
        assertTrue(new File(models, ".old-a").mkdirs());
        assertTrue(new File(models, ".old-b").mkdirs());
        assertTrue(new File(models, "b").mkdirs());
        Importer.tidy(models);
        String[] names = models.list();
        Arrays.sort(names);
        assertEquals(Arrays.asList("a", "b"), Arrays.asList(names));
    }

    /** The message; nothing may be left. */
    private String refused() {
        BundleException problem = assertThrows(BundleException.class, () -> take(ROOM, ON));
        assertEquals(0, models.list().length);
        return problem.getMessage();
    }

    private String take(long room, BundleCheck.Progress progress) throws Exception {
        return Importer.run(Samples.files(contents), models, room, progress);
    }

    private String read(String path) throws Exception {
        return new String(Files.readAllBytes(new File(models, path).toPath()), "UTF-8");
    }
}
