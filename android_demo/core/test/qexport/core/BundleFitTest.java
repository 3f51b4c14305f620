package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;

import java.util.Arrays;
import java.util.Collections;
import org.junit.Test;

public class BundleFitTest {
    @Test
    public void whatIsMadeForItRuns() throws BundleException {
        for (String version : new String[] {"1.23", "1.23.0", "1.29.0", "1.100", "2", "1.29.0-dev+5"}) {
            assertNull(version, whyNot("arm64-v8a", "onnxruntime", version));
        }
    }

    @Test
    public void saysWhyNot() throws BundleException {
        assertEquals("Tiny needs onnxruntime 1.23, this app has 1.9.2; update the app or export for min_runtime \"1.9.2\"",
                whyNot("arm64-v8a", "onnxruntime", "1.9.2"));
        assertEquals("Tiny needs onnxruntime 1.23, this app has 1; update the app or export for min_runtime \"1\"",
                whyNot("arm64-v8a", "onnxruntime", "1"));
        assertEquals("Tiny needs onnxruntime 1.23, this app's says it is \"?\", which is not a version like 1.23; update "
                + "the app", whyNot("arm64-v8a", "onnxruntime", "?"));
        assertEquals("Tiny is for arm64-v8a, this device has riscv64; export it for this device",
                whyNot("riscv64", "onnxruntime", "1.29.0"));
        assertEquals("Tiny is for onnxruntime, this app has executorch; bundle the model's file for executorch",
                whyNot("arm64-v8a", "executorch", "1.5.1"));
        assertEquals("Tiny is for arm64-v8a, this device has none; export it for this device",
                BundleFit.whyNot(Samples.bundle(), Collections.<String>emptyList(), "onnxruntime", "1.29.0"));
    }

    private static String whyNot(String abi, String runtime, String version) throws BundleException {
        return BundleFit.whyNot(Samples.bundle(), Arrays.asList(abi), runtime, version);
    }
}
