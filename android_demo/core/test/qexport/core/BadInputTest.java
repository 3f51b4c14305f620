package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.Map;
import org.junit.Test;

/** What an app meets sooner or later: each ends with a sentence for a person, and the next try works. */
public class BadInputTest {
    private static final String AGAIN = "; install the app or copy the folder again";

    @Test
    public void aChangedByteInAnyFile() throws Exception {
        for (String name : Samples.contents().keySet()) {
            Map<String, String> contents = Samples.contents();
            char[] content = contents.get(name).toCharArray();
            content[0] ^= 1;
            contents.put(name, new String(content));
            String message = refused(() -> BundleCheck.verify(Samples.bundle(), Samples.files(contents), null));
            assertTrue(message, message.startsWith("tiny/" + name + ": changed: sha256 ") && message.endsWith(AGAIN));
        }
        assertTrue(BundleCheck.verify(Samples.bundle(), Samples.files(Samples.contents()), null));
    }

    @Test
    public void aManifestFromANewerSchema() {
        assertEquals("bundle.json: schema 2 is newer than this app reads (1); update the app",
                refused(() -> Samples.bundle("'schema':1", "'schema':2")));
    }

    @Test
    public void aModelLargerThanFreeMemory() throws Exception {
        assertEquals("Tiny needs 2 MiB with a context of 64 tokens, 1 MiB are free; close other apps or choose a smaller "
                + "variant", MemoryGate.whyNot(Samples.bundle(), 64, 3 << 20, 2 << 20));
        assertEquals("Tiny needs 1 MiB, 0 MiB are free; close other apps or choose a smaller variant",
                MemoryGate.whyNot(Samples.bundleOf("feature-extraction", Samples.ENCODER), 0, 0, 0));
    }

    @Test
    public void aMissingTokenizer() throws Exception {
        Map<String, String> contents = Samples.contents();
        contents.remove("tokenizer.json");
        assertEquals("tiny/tokenizer.json: missing" + AGAIN,
                refused(() -> BundleCheck.verify(Samples.bundle(), Samples.files(contents), null)));
        for (String section : new String[] {Samples.ENCODER, Samples.SPEECH}) {
            String task = section.equals(Samples.SPEECH) ? "automatic-speech-recognition" : "feature-extraction";
            String message = refused(() -> Samples.bundleOf(task, section.replace("tokenizer.json", "gone.json")));
            assertTrue(message, message.contains(".tokenizer is \"gone.json\", which is not among the files"));
        }
        assertEquals("tokenizer.json: not JSON: line 1, column 1: the text ends where a value should be; export a model whose tokenizer "
                + "has only parts that this app has", refused(() -> Tokenizers.parse("")));
    }

    @Test
    public void anUnknownAbiAndARuntimeTooOld() throws Exception {
        assertEquals("Tiny is for arm64-v8a, this device has riscv64; export it for this device",
                BundleFit.whyNot(Samples.bundle(), Collections.singletonList("riscv64"), "onnxruntime", "1.29.0"));
        assertEquals("Tiny needs onnxruntime 1.23, this app has 1.22.2; update the app or export for min_runtime \"1.22.2\"",
                BundleFit.whyNot(Samples.bundle(), Arrays.asList("arm64-v8a"), "onnxruntime", "1.22.2"));
    }

    @Test
    public void brokenUtf8FromTheModel() throws Exception {
        Samples.Script engine = new Samples.Script("", 64) {
            private final int[] said = {'a', 0xff, 0xe2, 0x82, 'b', 0xc3, 0};
            private int next;

            @Override
            public void feed(int[] ids, float[] logits) throws EngineException {
                super.feed(ids, logits);
                Arrays.fill(logits, 0);
                logits[said[next++]] = 9;
            }
        };
        StringBuilder text = new StringBuilder();
        Generation generation = new Generation(engine, Samples.bundle().text(), new Samples.Bytes());
        generation.run(new int[] {7}, Settings.greedy(20), new Generation.Listener() {
            @Override
            public void prefilled(int done, int all) {
            }

            @Override
            public void text(String piece) {
                text.append(piece);
            }
        });
        assertEquals("a\ufffd\ufffdb\ufffd", text.toString());
    }

    @Test
    public void aPromptLongerThanTheContext() throws Exception {
        Chat chat = new Chat(Samples.bundle().text(), new Samples.Bytes());
        String line = String.join("", Collections.nCopies(50, "a"));
        assertEquals("The conversation is 65 tokens long, the model holds 64 with its answer; begin a new conversation or "
                + "shorten the message", assertThrows(EngineException.class,
                        () -> chat.encode(Collections.singletonList(new Chat.Message("user", line)))).getMessage());
        chat.encode(Collections.singletonList(new Chat.Message("user", "a")));
    }

    @Test
    public void noNumbersInSettings() {
        for (String typed : new String[] {"NaN", "Infinity", "-Infinity", "", "1e999", "half"}) {
            assertThrows(typed, IllegalArgumentException.class, () -> Settings.parse(typed, "1", "1", "1", "1"));
            assertThrows(typed, IllegalArgumentException.class, () -> Settings.parse("1", "1", typed, "1", "1"));
        }
        Settings.parse("0.7", "40", "0.9", "1", "100");
    }

    @Test
    public void cancelDuringLoad() throws Exception {
        int[] asked = new int[1];
        assertFalse(BundleCheck.verify(Samples.bundle(), Samples.files(Samples.contents()), (done, all) -> ++asked[0] < 2));
        assertEquals(2, asked[0]);  // and not once more
        assertTrue(BundleCheck.verify(Samples.bundle(), Samples.files(Samples.contents()), (done, all) -> true));
    }

    private static String refused(org.junit.function.ThrowingRunnable run) {
        return assertThrows(BundleException.class, run).getMessage();
    }
}
