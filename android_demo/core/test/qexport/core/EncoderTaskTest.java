package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.List;
import org.junit.Test;

public class EncoderTaskTest {
    private final Samples.Counter counter = new Samples.Counter();

    @Test
    public void embedsAndCutsAtTheEnd() throws Exception {
        EncoderTask task = new EncoderTask(Samples.encoder(), new Samples.Bytes(), counter);
        assertArrayEquals(new float[] {2, 1}, task.embed("aab"), 0);
        assertFalse(task.cut("12345678"));
        assertTrue(task.cut("123456789"));
        assertArrayEquals(new float[] {8, 0}, task.embed("aaaaaaaab"), 0);
        assertEquals(8, counter.last.length);
    }

    @Test
    public void classifiesTheLikeliestFirst() throws Exception {
        EncoderTask task = new EncoderTask(Samples.classifier(), new Samples.Bytes(), counter);
        List<Label> labels = task.classify("abb");
        assertEquals("yes", labels.get(0).name());
        assertEquals("no", labels.get(1).name());
        assertEquals(1 / (1 + Math.exp(-1)), labels.get(0).probability(), 1e-12);
        assertEquals(1, labels.get(0).probability() + labels.get(1).probability(), 1e-12);
        assertEquals("The model gives vectors, not labels; use it for search",
                refused(() -> new EncoderTask(Samples.encoder(), new Samples.Bytes(), counter).classify("a")));
    }

    @Test
    public void findsByMeaning() throws Exception {
        Search search = new Search(new EncoderTask(Samples.encoder(), new Samples.Bytes(), counter));
        for (String text : new String[] {"aab", "b", "x", "bb", "ab"}) {
            search.add(text);
        }
        assertEquals('d', counter.last[0]);
        assertEquals(5, search.size());
        List<String> found = new ArrayList<>();
        for (Search.Hit hit : search.find("b", 3)) {
            found.add(hit.text());
        }
        assertEquals('q', counter.last[0]);
        assertEquals(java.util.Arrays.asList("b", "bb", "ab"), found);
        assertEquals(1, search.find("b", 1).get(0).score(), 1e-12);
        assertEquals(5, search.find("a", 9).size());
        assertEquals(0, search.find("a", 9).get(4).score(), 0);  // no direction, no likeness
        assertThrows(IllegalArgumentException.class, () -> search.find("a", 0));
        search.clear();
        assertTrue(search.find("a", 3).isEmpty());
    }

    @Test
    public void refusesWhatIsNoText() throws Exception {
        EncoderTask task = new EncoderTask(Samples.encoder(), new Samples.Bytes(), counter);
        assertEquals("There is no text; write some", refused(() -> task.embed("")));
        assertEquals("There is no text; write some", refused(() -> task.embed(" \n\t")));
        Search search = new Search(task);
        assertEquals("There is no text; write some", refused(() -> search.add(" ")));
        assertEquals(0, search.size());
        assertEquals("There is no text; write some", refused(() -> search.find("", 1)));
    }

    @Test
    public void refusesNumbersThatAreNone() throws Exception {
        TextEncoder broken = new Samples.Counter() {
            @Override
            public void run(int[] ids, float[] into) {
                into[1] = Float.NaN;
            }
        };
        assertEquals("The model gave NaN as number 2 of 2: its numbers broke down on this device; run the self-test, or "
                + "use another variant",
                refused(() -> new EncoderTask(Samples.encoder(), new Samples.Bytes(), broken).embed("a")));
    }

    @Test
    public void refusesAnothersTokens() throws Exception {
        EncoderModel small = Samples.bundleOf("feature-extraction", Samples.ENCODER.replace("'vocab':256", "'vocab':98"))
                .encoder();
        EncoderTask task = new EncoderTask(small, new Samples.Bytes(), counter);
        task.embed("a");
        assertEquals("The tokenizer gives token 98, the model has 98; the two do not belong together: write the folder "
                + "again with `qexport bundle`", refused(() -> task.embed("ab")));
    }

    @Test
    public void theTemplateStaysWhenATextIsCut() throws Exception {
        Tokenizer tokenizer = Tokenizers.parse(Samples.read(Samples.folder().resolve("wordpiece.json")));
        int[] whole = tokenizer.encode("The quick brown fox jumps over the lazy dog");
        int last = whole[whole.length - 1];
        assertArrayEquals(new int[] {whole[0], whole[1], whole[2], last},
                tokenizer.encode("The quick brown fox jumps over the lazy dog", 4));
        assertArrayEquals(whole, tokenizer.encode("The quick brown fox jumps over the lazy dog", whole.length));
    }

    @Test
    public void readsItsSectionAndRefusesBrokenOnes() throws Exception {
        EncoderModel model = Samples.encoder();
        assertEquals("tokenizer.json", model.tokenizer());
        assertEquals(8, model.maxTokens());
        assertEquals(256, model.vocab());
        assertEquals("sentence_embedding", model.output());
        assertTrue(model.normalised());
        assertEquals("", model.prefix());
        assertTrue(model.labels().isEmpty());
        String again = "; write the folder again with `qexport bundle`";
        broken("'max_tokens':8", "'max_tokens':0", "max_tokens is 0, not in 1 to 16777216" + again);
        broken("'labels':[]", "'labels':['a']", "labels holds 1 names, not 0" + again);
        broken("'output':'sentence_embedding',", "", "output is missing" + again);
        broken("'tokenizer':'tokenizer.json'", "'tokenizer':'t'", "tokenizer is \"t\", which is not among the files" + again);
        String twice = Samples.ENCODER.replace("'labels':[]", "'labels':['a','a']");
        assertEquals("bundle.json: encoder.labels holds a name twice" + again,
                assertThrows(BundleException.class, () -> Samples.bundleOf("text-classification", twice)).getMessage());
        assertEquals("bundle.json: encoder is missing" + again, assertThrows(BundleException.class,
                () -> Samples.bundleOf("text-classification", "'text':1")).getMessage());
    }

    private static void broken(String from, String to, String message) {
        assertTrue(Samples.ENCODER.contains(from));
        assertEquals("bundle.json: encoder." + message, assertThrows(BundleException.class,
                () -> Samples.bundleOf("feature-extraction", Samples.ENCODER.replace(from, to))).getMessage());
    }

    private static String refused(org.junit.function.ThrowingRunnable run) {
        return assertThrows(EngineException.class, run).getMessage();
    }
}
