package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.regex.Pattern;

/** What bundle.json says: a model made for this app, and every file of its folder. */
public final class Bundle {
    /** The schema that this app reads. */
    public static final int SCHEMA = 1;

    private static final String AGAIN = "write the folder again with `qexport bundle`";
    private static final Pattern ID = Pattern.compile("[a-z0-9_.-]+");
    private static final Pattern SHA256 = Pattern.compile("[0-9a-f]{64}");
    private static final Pattern VERSION = Pattern.compile("[0-9]+(\\.[0-9]+)*");

    private final String id;
    private final String title;
    private final String task;
    private final String runtime;
    private final String minRuntime;
    private final List<String> operators;
    private final List<String> abis;
    private final String model;
    private final List<BundleFile> files;
    private final long loadBytes;
    private final long kvBytesPerToken;
    private final String license;
    private final String golden;
    private final TextModel text;
    private final EncoderModel encoder;
    private final SpeechModel speech;
    private final String variantGroup;
    private final int variantRank;

    private Bundle(Fields bundle) throws BundleException {
        id = bundle.string("id");
        if (!ID.matcher(id).matches() || id.startsWith(".")) {
            throw bundle.wrong("id", "is \"" + id + "\", not of a-z, 0-9, _, . and - (and no . first)");
        }
        title = bundle.string("title");
        task = bundle.string("task");
        runtime = bundle.string("runtime");
        if (!runtime.equals("onnxruntime") && !runtime.equals("executorch")) {
            throw bundle.wrong("runtime", "is \"" + runtime + "\"; this app has onnxruntime and executorch");
        }
        minRuntime = bundle.string("min_runtime");
        if (!VERSION.matcher(minRuntime).matches()) {
            throw bundle.wrong("min_runtime", "is \"" + minRuntime + "\", not a version like 1.23");
        }
        operators = Collections.unmodifiableList(bundle.strings("operators"));
        abis = Collections.unmodifiableList(bundle.strings("abis"));
        files = files(bundle);
        model = listed(bundle, "model", bundle.string("model"));
        golden = listed(bundle, "golden", bundle.string("golden"));
        license = bundle.has("license") ? listed(bundle, "license", bundle.string("license")) : null;
        Fields memory = bundle.object("memory");
        loadBytes = memory.number("load_bytes", 0, Long.MAX_VALUE / 4);
        kvBytesPerToken = memory.number("kv_bytes_per_token", 0, 1L << 32);
        text = task.equals("text-generation") ? TextModel.of(bundle.object("text")) : null;
        if (text != null) {
            listed(bundle, "text.tokenizer", text.tokenizer());
        }
        boolean classifies = task.equals("text-classification");
        encoder = classifies || task.equals("feature-extraction")
                ? EncoderModel.of(bundle.object("encoder"), classifies) : null;
        if (encoder != null) {
            listed(bundle, "encoder.tokenizer", encoder.tokenizer());
        }
        speech = task.equals("automatic-speech-recognition") ? SpeechModel.of(bundle.object("speech")) : null;
        if (speech != null) {
            listed(bundle, "speech.tokenizer", speech.tokenizer());
            listed(bundle, "speech.encoder", speech.encoder());
            listed(bundle, "speech.decoder", speech.decoder());
        }
        Fields variant = bundle.has("variant") ? bundle.object("variant") : null;
        variantGroup = variant == null ? null : variant.string("group");
        variantRank = variant == null ? 0 : variant.integer("rank", 0, 1000);
    }

    /** Reads bundle.json's text. */
    public static Bundle parse(String json) throws BundleException {
        Fields bundle = Fields.of("bundle.json", json, AGAIN);
        long schema = bundle.number("schema", 1, Integer.MAX_VALUE);
        if (schema > SCHEMA) {
            throw new BundleException("bundle.json: schema " + schema + " is newer than this app reads (" + SCHEMA
                    + "); update the app");
        }
        return new Bundle(bundle);
    }

    private static List<BundleFile> files(Fields bundle) throws BundleException {
        List<BundleFile> result = new ArrayList<>();
        Set<String> seen = new HashSet<>();
        for (Fields file : bundle.objects("files")) {
            String path = file.string("path");
            if (!inside(path)) {
                throw file.wrong("path", "is \"" + path + "\", which is not a plain path inside the folder");
            }
            if (!seen.add(path)) {
                throw file.wrong("path", "\"" + path + "\" is listed twice");
            }
            String sha256 = file.string("sha256");
            if (!SHA256.matcher(sha256).matches()) {
                throw file.wrong("sha256", "is not 64 hex digits in lower case");
            }
            result.add(new BundleFile(path, file.number("bytes", 0, 1L << 50), sha256));
        }
        return Collections.unmodifiableList(result);
    }

    private static boolean inside(String path) {
        if (path.indexOf('\\') >= 0 || path.indexOf('\0') >= 0) {
            return false;
        }
        for (String name : path.split("/", -1)) {
            if (name.isEmpty() || name.equals(".") || name.equals("..")) {
                return false;
            }
        }
        return true;
    }

    private String listed(Fields bundle, String key, String path) throws BundleException {
        for (BundleFile file : files) {
            if (file.path().equals(path)) {
                return path;
            }
        }
        throw bundle.wrong(key, "is \"" + path + "\", which is not among the files");
    }

    /** The folder's name. */
    public String id() {
        return id;
    }

    /** A name for people. */
    public String title() {
        return title;
    }

    /** What the model does, such as text-generation. */
    public String task() {
        return task;
    }

    /** onnxruntime or executorch. */
    public String runtime() {
        return runtime;
    }

    /** The oldest version of the runtime that runs it. */
    public String minRuntime() {
        return minRuntime;
    }

    /** The operators that the model uses. */
    public List<String> operators() {
        return operators;
    }

    /** The processors that it is for, as Android names them. */
    public List<String> abis() {
        return abis;
    }

    /** The model's main file. */
    public String model() {
        return model;
    }

    /** Every file of the folder but bundle.json. */
    public List<BundleFile> files() {
        return files;
    }

    /** Memory that the loaded model takes. */
    public long loadBytes() {
        return loadBytes;
    }

    /** Memory that each token of context takes. */
    public long kvBytesPerToken() {
        return kvBytesPerToken;
    }

    /** The licence's file; null: none. */
    public String license() {
        return license;
    }

    /** The file of known inputs and outputs. */
    public String golden() {
        return golden;
    }

    /** What a text-generation model needs; null for other tasks. */
    public TextModel text() {
        return text;
    }

    /** What a model for embeddings or labels needs; null for other tasks. */
    public EncoderModel encoder() {
        return encoder;
    }

    /** What a speech model needs; null for other tasks. */
    public SpeechModel speech() {
        return speech;
    }

    /** The group of bundles that are one model in several sizes; null: none. */
    public String variantGroup() {
        return variantGroup;
    }

    /** Its place in the group, 0 the smallest. */
    public int variantRank() {
        return variantRank;
    }
}
