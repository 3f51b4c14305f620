package qexport.host;

import java.io.IOException;
import java.io.PrintStream;
import java.util.List;
import qexport.core.BundleException;
import qexport.core.EngineException;
import qexport.core.Golden;
import qexport.core.GoldenReplay;
import qexport.core.GoldenReport;
import qexport.ort.OrtEngine;
import qexport.ort.OrtSpeechEngine;
import qexport.ort.OrtTextEncoder;

/** The golden examples again, and the report that the app shares. */
final class Replaying {
    private static final String HERE = "x86_64";

    private Replaying() {
    }

    /** False where an example differs. */
    static boolean run(Opened opened, PrintStream out) throws IOException, BundleException, EngineException {
        String json = opened.read(opened.bundle.golden());
        if (opened.bundle.text() != null) {
            Golden golden = Golden.parse(json, HERE, opened.bundle.text().vocab());
            try (OrtEngine engine = opened.engine()) {
                return tell(opened, golden, engine.runtimeVersion(),
                        GoldenReplay.run(golden, engine, opened.bundle.text(), opened.tokenizer, null), out);
            }
        }
        if (opened.bundle.encoder() != null) {
            Golden golden = Golden.parse(json, HERE, opened.bundle.encoder().vocab());
            try (OrtTextEncoder encoder = opened.encoder()) {
                return tell(opened, golden, encoder.runtimeVersion(),
                        GoldenReplay.run(golden, opened.task(encoder), null), out);
            }
        }
        Golden golden = Golden.parse(json, HERE, opened.speech().vocab());
        try (OrtSpeechEngine engine = opened.speechEngine()) {
            return tell(opened, golden, engine.runtimeVersion(),
                    GoldenReplay.run(golden, opened.transcriber(engine), opened.files(), null), out);
        }
    }

    private static boolean tell(Opened opened, Golden golden, String version, List<GoldenReplay.Result> results,
            PrintStream out) {
        out.print(GoldenReport.text(opened.bundle, golden, results, System.getProperty("os.name"), HERE, version));
        return results.stream().allMatch(GoldenReplay.Result::passed);
    }
}
