package qexport.core;

import java.util.List;
import java.util.Locale;

/** The golden replay as a text to read and to share: what ran, where, and how each prompt went. */
public final class GoldenReport {
    private GoldenReport() {
    }

    /**
     * Writes it; nothing of the person or of their messages is in it.
     *
     * @param results of {@link GoldenReplay#run}
     * @param device such as the model's name and Android's version
     * @param abi the device's processor, such as arm64-v8a
     * @param runtimeVersion of {@link Engine#runtimeVersion}
     */
    public static String text(Bundle bundle, Golden golden, List<GoldenReplay.Result> results, String device,
            String abi, String runtimeVersion) {
        int passed = 0;
        for (GoldenReplay.Result result : results) {
            passed += result.passed() ? 1 : 0;
        }
        int all = golden.size();
        StringBuilder text = new StringBuilder();
        String verdict = passed < results.size() ? "FAILED" : results.size() < all ? "ended early" : "passed";
        text.append("Self-test ").append(verdict).append(": ").append(passed).append(" of ").append(all)
                .append(" ").append(golden.what()).append(" passed\n");
        text.append(bundle.title()).append(" (").append(bundle.id()).append(", ").append(bundle.model())
                .append(" sha256 ").append(sha256(bundle)).append("…)\n");
        text.append(device).append(", ").append(abi).append(", ").append(bundle.runtime()).append(' ')
                .append(runtimeVersion).append('\n');
        text.append("Compared with values of ").append(golden.column()).append(Double.isNaN(golden.cosine())
                ? String.format(Locale.ROOT, ", logits at most %.3f apart\n", golden.tolerance())
                : String.format(Locale.ROOT, ", vectors with a cosine of at least %.4f\n", golden.cosine()));
        if (!golden.measuredHere()) {
            text.append("Note: they were not measured on this kind of processor, whose kernels may round otherwise\n");
        }
        for (GoldenReplay.Result result : results) {
            text.append(result.passed() ? "ok      " : "FAILED  ").append(result.text().replace('\n', ' '))
                    .append(": ").append(result.measured());
            text.append(result.passed() ? "\n" : "; " + result.failure() + "\n");
        }
        return text.toString();
    }

    private static String sha256(Bundle bundle) {
        for (BundleFile file : bundle.files()) {
            if (file.path().equals(bundle.model())) {
                return file.sha256().substring(0, 12);
            }
        }
        throw new AssertionError("Bundle checks that its model is among its files");
    }
}
