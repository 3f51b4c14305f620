package qexport.app;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.lang.ref.WeakReference;
import java.util.Arrays;
import java.util.Map;
import org.junit.Test;
import qexport.core.EnergyPolicy;

public class SelfTestWorkTest {
    private static final String PROMPT = "{'text':'Hi','input_ids':"
            + Arrays.toString(new Samples.Bytes().encode("U:Hi;A:"))
            + ",'values':{'arm64-v8a':{'greedy':[97,98,0],'top_ids':[97,0],'top_logits':[9,0]}}}";
    private static final String GOLDEN = "{'schema':1,'columns':['arm64-v8a'],'tolerance':{'logits':0.5,'why':'x'},"
            + "'prompts':[" + PROMPT + "," + PROMPT + "]}";

    private final Worker worker = new Worker("models");
    private final Samples.Script engine = new Samples.Script("ab");
    private int battery = 80;
    private final SelfTestWork test = new SelfTestWork(
            worker, Samples.HERE, () -> EnergyPolicy.decide(0, battery, false, false, 4), () -> 2048);

    @Test
    public void reportsForSharing() throws Exception {
        String report = run(GOLDEN);
        assertTrue(report, report.startsWith("Self-test passed: 2 of 2 prompts passed\nTiny, int4 (tiny, model.ort"));
        assertTrue(report, report.contains("\nPhone, arm64-v8a, onnxruntime 1.29.0\n"));
        assertTrue(report, report.contains("\n6 tokens in "));
        assertTrue(report, report.endsWith(" s with 1 threads, inputs included; 2 MiB of memory (PSS)\n"));
    }

    @Test
    public void saysWhatFailed() throws Exception {
        assertTrue(run(GOLDEN.replace("[97,98,0]", "[97,99,0]")).startsWith("Self-test FAILED: 0 of 2 prompts"));
    }

    @Test
    public void stopEndsItAfterAPrompt() throws Exception {
        engine.before = test::stop;
        assertTrue(run(GOLDEN).startsWith("Self-test ended early: 1 of 2 prompts passed\n"));
    }

    @Test
    public void brokenValuesAreASentence() throws Exception {
        assertNull(run("{"));
        assertTrue(test.state.get().problem.startsWith("golden.json: not JSON: "));
    }

    @Test
    public void anEmptyBatteryDoesNotBegin() throws Exception {
        battery = 3;
        assertNull(run(GOLDEN));
        assertEquals("The battery is at 3 %; plug the device in", test.state.get().problem);
    }

    @Test
    public void holdsNoModelBehindAReport() throws Exception {
        WeakReference<Model> held = new WeakReference<>(Samples.model(engine, Samples.files(Samples.contents())));
        test.start(held.get(), "Phone", "arm64-v8a");
        Samples.await(worker);
        assertTrue(Samples.forgotten(held));
    }

    private String run(String golden) throws Exception {
        Map<String, String> contents = Samples.contents();
        contents.put("golden.json", golden.replace('\'', '"'));
        test.start(Samples.model(engine, Samples.files(contents)), "Phone", "arm64-v8a");
        Samples.await(worker);
        return test.state.get().report;
    }
}
