package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import org.junit.Test;

public class GoldenReplayTest {
    /** The ids of S:Be kind;U:Hi;A: and what Script answers with "ab". */
    private static final String GOLDEN = "{'schema':1,'columns':['x86_64','arm64-v8a'],'tolerance':{'logits':0.5,'why':'x'},"
            + "'prompts':[{'text':'Hi','input_ids':" + Arrays.toString(new Samples.Bytes().encode("S:Be kind;U:Hi;A:"))
            + ",'values':{'x86_64':{'greedy':[97,98,0],'top_ids':[97,0],'top_logits':[9.25,0]},"
            + "'arm64-v8a':{'greedy':[97,98,0],'top_ids':[97,0],'top_logits':[9,0]}}}]}";

    @Test
    public void passesWithinTheTolerance() throws Exception {
        GoldenReplay.Result result = replay(GOLDEN, "x86_64");
        assertNull(result.failure());
        assertTrue(result.passed());
        assertEquals("Hi", result.text());
        assertEquals(0.25, result.logitError(), 0);
        assertEquals(3, result.sameTokens());
        assertEquals(3, result.tokens());
        assertEquals(0, replay(GOLDEN, "arm64-v8a").logitError(), 0);
    }

    @Test
    public void takesTheColumnOfThisProcessorOrTheNearest() throws Exception {
        Golden here = golden(GOLDEN, "arm64-v8a");
        assertEquals("arm64-v8a", here.column());
        assertTrue(here.measuredHere());
        assertEquals(0.5, here.tolerance(), 0);
        assertEquals("arm64-v8a", golden(GOLDEN, "armeabi-v7a").column());
        assertEquals("x86_64", golden(GOLDEN, "x86").column());
        Golden elsewhere = golden(GOLDEN, "riscv64");
        assertEquals("x86_64", elsewhere.column());
        assertFalse(elsewhere.measuredHere());
    }

    @Test
    public void saysWhatLiesApart() throws Exception {
        assertEquals("token 97 has logit 9.0000, golden is 9.7500; at most 0.5000 apart",
                replay(GOLDEN.replace("9.25", "9.75"), "x86_64").failure());
        GoldenReplay.Result result = replay(GOLDEN.replace("[97,98,0]", "[97,99,0]"), "x86_64");
        assertEquals("answer's token 2 is 98, golden is 99, 9.0000 behind; at most 1.0000", result.failure());
        assertEquals(2, result.sameTokens());
        assertEquals("the tokenizer's token 13 is 72, golden is 74",
                replay(GOLDEN.replace("72, 105", "74, 105"), "x86_64").failure());
        assertEquals("the tokenizer's token 18 is none, golden is 7",
                replay(GOLDEN.replace("65, 58]", "65, 58, 7]"), "x86_64").failure());
    }

    @Test
    public void aNearTiePasses() throws Exception {
        String tie = GOLDEN.replace("'logits':0.5", "'logits':5.0").replace("[97,98,0]", "[97,99,0]");
        GoldenReplay.Result result = replay(tie, "x86_64");
        assertNull(result.failure());
        assertEquals(2, result.sameTokens());
    }

    @Test
    public void reports() throws Exception {
        assertEquals("Self-test passed: 1 of 1 prompts passed\n"
                + "Tiny (tiny, model.ort sha256 ba7816bf8f01…)\n"
                + "Phone, Android 15, arm64-v8a, onnxruntime 1.29.0\n"
                + "Compared with values of arm64-v8a, logits at most 0.500 apart\n"
                + "ok      Hi: 3 of 3 tokens, largest difference of a logit 0.000\n", report(GOLDEN, "arm64-v8a"));
        assertEquals("Self-test FAILED: 0 of 1 prompts passed\n"
                + "Tiny (tiny, model.ort sha256 ba7816bf8f01…)\n"
                + "Phone, Android 15, riscv64, onnxruntime 1.29.0\n"
                + "Compared with values of x86_64, logits at most 0.500 apart\n"
                + "Note: they were not measured on this kind of processor, whose kernels may round otherwise\n"
                + "FAILED  Hi: 3 of 3 tokens, largest difference of a logit 0.750; token 97 has logit 9.0000, golden is "
                + "9.7500; at most 0.5000 apart\n", report(GOLDEN.replace("9.25", "9.75"), "riscv64"));
        assertTrue(GoldenReport.text(Samples.bundle(), golden(GOLDEN, "x86_64"), Collections.emptyList(), "", "x86_64",
                "").startsWith("Self-test ended early: 0 of 1 prompts passed\n"));
    }

    private static String report(String json, String abi) throws Exception {
        return GoldenReport.text(Samples.bundle(), golden(json, abi), Arrays.asList(replay(json, abi)),
                "Phone, Android 15", abi, "1.29.0");
    }

    @Test
    public void canBeEnded() throws Exception {
        int prompt = GOLDEN.indexOf("{'text'");
        String two = GOLDEN.substring(0, GOLDEN.length() - 2) + "," + GOLDEN.substring(prompt);
        Samples.Script engine = new Samples.Script("ab", 64);
        Samples.Bytes tokenizer = new Samples.Bytes();
        TextModel model = Samples.bundle().text();
        assertEquals(2, GoldenReplay.run(golden(two, ""), engine, model, tokenizer, (done, all) -> true).size());
        assertEquals(1, GoldenReplay.run(golden(two, ""), engine, model, tokenizer, (done, all) -> all != 2).size());
        assertEquals(0, engine.past());
    }

    @Test
    public void aNumberThatIsNoneFails() throws Exception {
        Engine broken = new Samples.Script("ab", 64) {
            @Override
            public void feed(int[] ids, float[] logits) throws EngineException {
                super.feed(ids, logits);
                logits[7] = Float.NaN;
            }
        };
        assertThrows(EngineException.class, () -> GoldenReplay.run(golden(GOLDEN, "x86_64"), broken,
                Samples.bundle().text(), new Samples.Bytes(), null));
    }

    @Test
    public void refusesBrokenFiles() {
        String again = "; write the folder again with `qexport bundle`";
        refused("'schema':1", "'schema':3", "golden.json: schema 3 is newer than this app reads (1); update the app");
        refused("['x86_64','arm64-v8a']", "[]", "golden.json: columns is empty" + again);
        refused("'top_logits':[9.25,0]", "'top_logits':[9.25]",
                "golden.json: prompts[0].values.x86_64.top_logits holds 1 numbers, top_ids 2" + again);
        refused("'logits':0.5", "'logits':-1", "golden.json: tolerance.logits is -1.0, less than 0" + again);
        refused("[97,98,0]", "[256]", "golden.json: prompts[0].values.x86_64.greedy[0] is 256, not in 0 to 255" + again);
    }

    private static void refused(String from, String to, String message) {
        assertEquals(message, assertThrows(BundleException.class,
                () -> golden(GOLDEN.replace(from, to), "x86_64")).getMessage());
    }

    private static Golden golden(String json, String abi) throws BundleException {
        return Golden.parse(Samples.json(json), abi, 256);
    }

    private static GoldenReplay.Result replay(String json, String abi) throws Exception {
        return GoldenReplay.run(golden(json, abi), new Samples.Script("ab", 64), Samples.bundle().text(),
                new Samples.Bytes(), null).get(0);
    }
}
