package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.FileNotFoundException;
import java.util.List;
import org.junit.Test;

/** The golden replay of encoders and speech. */
public class OtherReplaysTest {
    private static final String VECTORS = "{'schema':1,'columns':['x86_64'],'tolerance':{'cosine':0.99,'why':'x'},"
            + "'examples':[{'text':'aab','input_ids':[97,97,98],'values':{'x86_64':{'vector':[2,1]}}}]}";
    private static final String LABELS = "{'schema':1,'columns':['x86_64'],'tolerance':{'logits':0.5,'why':'x'},"
            + "'examples':[{'text':'abb','input_ids':[97,98,98],'values':{'x86_64':{'top_ids':[1,0],"
            + "'top_logits':[2.25,1]}}}]}";
    private static final String CLIPS = "{'schema':1,'columns':['x86_64'],'tolerance':{'logits':0.5,'why':'x'},"
            + "'clips':[{'text':'said.wav','file':'clip0.wav','values':{'x86_64':{'greedy':[97,98,0],'top_ids':[97,0],"
            + "'top_logits':[9.25,0]}}}]}";

    @Test
    public void vectors() throws Exception {
        GoldenReplay.Result result = encoder(VECTORS, Samples.encoder());
        assertTrue(result.passed());
        assertEquals(1, result.cosine(), 1e-9);
        assertEquals("cosine 1.00000", result.measured());
        assertEquals("the vector's cosine with the golden one is 0.80000; at least 0.99000",
                encoder(VECTORS.replace("[2,1]", "[1,2]"), Samples.encoder()).failure());
        assertEquals("the tokenizer's token 3 is 98, golden is 99",
                encoder(VECTORS.replace("98]", "99]"), Samples.encoder()).failure());
        assertEquals("The golden vector has 3 numbers, the model gives 2; write the folder again with `qexport bundle`",
                assertThrows(EngineException.class,
                        () -> encoder(VECTORS.replace("[2,1]", "[2,1,0]"), Samples.encoder())).getMessage());
    }

    @Test
    public void labels() throws Exception {
        GoldenReplay.Result result = encoder(LABELS, Samples.classifier());
        assertTrue(result.passed());
        assertEquals("largest difference of a logit 0.250", result.measured());
        assertEquals("label 1 has logit 2.0000, golden is 3.2500; at most 0.5000 apart",
                encoder(LABELS.replace("2.25", "3.25"), Samples.classifier()).failure());
        assertEquals("label 7 has logit NaN, golden is 2.2500; at most 0.5000 apart",
                encoder(LABELS.replace("[1,0]", "[7,0]"), Samples.classifier()).failure());
    }

    @Test
    public void clips() throws Exception {
        GoldenReplay.Result result = clip(CLIPS, "ab");
        assertTrue(result.passed());
        assertEquals("3 of 3 tokens, largest difference of a logit 0.250", result.measured());
        assertEquals("answer's token 2 is 99, golden is 98, 9.0000 behind; at most 1.0000", clip(CLIPS, "ac").failure());
        assertThrows(FileNotFoundException.class, () -> clip(CLIPS.replace("clip0", "clip9"), "ab"));
    }

    @Test
    public void reports() throws Exception {
        Golden golden = Golden.parse(Samples.json(VECTORS), "arm64-v8a", 256);
        List<GoldenReplay.Result> results = GoldenReplay.run(golden,
                new EncoderTask(Samples.encoder(), new Samples.Bytes(), new Samples.Counter()), null);
        assertEquals("Self-test passed: 1 of 1 texts passed\n"
                + "Tiny (tiny, model.ort sha256 ba7816bf8f01…)\n"
                + "Phone, arm64-v8a, onnxruntime 1.29.0\n"
                + "Compared with values of x86_64, vectors with a cosine of at least 0.9900\n"
                + "Note: they were not measured on this kind of processor, whose kernels may round otherwise\n"
                + "ok      aab: cosine 1.00000\n",
                GoldenReport.text(Samples.bundle(), golden, results, "Phone", "arm64-v8a", "1.29.0"));
    }

    @Test
    public void refusesBrokenFiles() {
        String again = "; write the folder again with `qexport bundle`";
        broken(VECTORS, "0.99", "1.5", "tolerance.cosine is 1.5, more than 1" + again);
        broken(VECTORS, "'vector':[2,1]", "'vector':[2,'1']", "examples[0].values.x86_64.vector[1] is \"1\", not a number"
                + again);
        broken(CLIPS, "'file':'clip0.wav',", "", "clips[0].file is missing" + again);
        broken(CLIPS, "[97,98,0]", "[]", "clips[0].values.x86_64.greedy is empty" + again);
        broken(LABELS, "[2.25,1]", "[2.25]", "examples[0].values.x86_64.top_logits holds 1 numbers, top_ids 2" + again);
    }

    private static void broken(String json, String from, String to, String message) {
        assertTrue(json.contains(from));
        assertEquals("golden.json: " + message, assertThrows(BundleException.class,
                () -> Golden.parse(Samples.json(json.replace(from, to)), "x86_64", 256)).getMessage());
    }

    private static GoldenReplay.Result encoder(String json, EncoderModel model) throws Exception {
        EncoderTask task = new EncoderTask(model, new Samples.Bytes(), new Samples.Counter());
        return GoldenReplay.run(Golden.parse(Samples.json(json), "x86_64", 256), task, null).get(0);
    }

    private static GoldenReplay.Result clip(String json, String script) throws Exception {
        Transcriber transcriber = new Transcriber(Samples.speech(), new Samples.Bytes(), new Samples.Hearing(script));
        Files files = path -> {
            if (!path.equals("clip0.wav")) {
                throw new FileNotFoundException(path);
            }
            return new ByteArrayInputStream(WaveTest.file(1, 1, 8000, 16, new byte[16_000]));
        };
        return GoldenReplay.run(Golden.parse(Samples.json(json), "x86_64", 256), transcriber, files, null).get(0);
    }
}
