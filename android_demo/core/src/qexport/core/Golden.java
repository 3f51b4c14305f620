package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** golden.json: inputs, and what the exported model made of them where it was measured. */
public final class Golden {
    /** One prompt or clip, and its values of one column. */
    static final class Prompt {
        final String text;
        final int[] inputIds;  // of a prompt
        final String file;  // of a clip; null: none
        final int[] greedy;
        final int[] topIds;
        final double[] topLogits;

        Prompt(Fields prompt, boolean clip, String column, int vocab) throws BundleException {
            text = prompt.string("text");
            file = clip ? prompt.string("file") : null;
            inputIds = clip ? new int[0] : prompt.integers("input_ids", 0, vocab - 1);
            Fields values = prompt.object("values").object(column);
            greedy = values.integers("greedy", 0, vocab - 1);
            topIds = values.integers("top_ids", 0, vocab - 1);
            topLogits = values.reals("top_logits");
            checkPairs(values, topIds, topLogits);
            if (!clip && inputIds.length == 0 || greedy.length == 0) {
                throw values.wrong(greedy.length == 0 ? "greedy" : "input_ids", "is empty");
            }
        }
    }

    /** One text of an encoder, and its values of one column: a vector, or the largest logits. */
    static final class Example {
        final String text;
        final int[] inputIds;
        final float[] vector;  // null: logits
        final int[] topIds;
        final double[] topLogits;

        Example(Fields example, String column, int vocab) throws BundleException {
            text = example.string("text");
            inputIds = example.integers("input_ids", 0, vocab - 1);
            Fields values = example.object("values").object(column);
            if (values.has("vector")) {
                double[] numbers = values.reals("vector");
                vector = new float[numbers.length];
                for (int i = 0; i < numbers.length; i++) {
                    vector[i] = (float) numbers[i];
                }
                topIds = new int[0];
                topLogits = new double[0];
            } else {
                vector = null;
                topIds = values.integers("top_ids", 0, Integer.MAX_VALUE);
                topLogits = values.reals("top_logits");
                checkPairs(values, topIds, topLogits);
            }
        }
    }

    private final String column;
    private final boolean measuredHere;
    private final String what;  // prompts, texts or clips
    private final double tolerance;
    private final double cosine;
    private final List<Prompt> prompts = new ArrayList<>();
    private final List<Example> examples = new ArrayList<>();

    private Golden(Fields golden, String abi, int vocab) throws BundleException {
        List<String> columns = golden.strings("columns");
        if (columns.isEmpty()) {
            throw golden.wrong("columns", "is empty");
        }
        measuredHere = columns.contains(abi);
        column = measuredHere ? abi : nearest(columns, abi);
        Fields apart = golden.object("tolerance");
        tolerance = apart.has("logits") ? apart.real("logits") : Double.NaN;
        cosine = apart.has("cosine") ? apart.real("cosine") : Double.NaN;
        if (apart.has("cosine") ? !(cosine <= 1) : !(tolerance >= 0)) {
            throw apart.has("cosine") ? golden.wrong("tolerance.cosine", "is " + cosine + ", more than 1")
                    : golden.wrong("tolerance.logits", "is " + tolerance + ", less than 0");
        }
        String key = golden.has("examples") ? "examples" : golden.has("clips") ? "clips" : "prompts";
        what = key.equals("examples") ? "texts" : key;
        for (Fields entry : golden.objects(key)) {
            if (key.equals("examples")) {
                examples.add(new Example(entry, column, vocab));
            } else {
                prompts.add(new Prompt(entry, key.equals("clips"), column, vocab));
            }
        }
        if (size() == 0) {
            throw golden.wrong(key, "is empty");
        }
    }

    private static void checkPairs(Fields values, int[] ids, double[] logits) throws BundleException {
        if (ids.length != logits.length || ids.length == 0) {
            throw values.wrong("top_logits", "holds " + logits.length + " numbers, top_ids " + ids.length);
        }
    }

    /** One of the same family of processors (arm, x86), or else the first. */
    private static String nearest(List<String> columns, String abi) {
        for (String column : columns) {
            if (abi.length() >= 3 && column.startsWith(abi.substring(0, 3))) {
                return column;
            }
        }
        return columns.get(0);
    }

    /** Reads golden.json's text; of its columns the one of this processor, or else the nearest. */
    public static Golden parse(String json, String abi, int vocab) throws BundleException {
        Fields golden = Fields.of("golden.json", json, "write the folder again with `qexport bundle`");
        long schema = golden.number("schema", 1, Integer.MAX_VALUE);
        if (schema > Bundle.SCHEMA) {
            throw new BundleException("golden.json: schema " + schema + " is newer than this app reads ("
                    + Bundle.SCHEMA + "); update the app");
        }
        return new Golden(golden, abi, vocab);
    }

    /** Where its values were measured, such as x86_64. */
    public String column() {
        return column;
    }

    /** True when that is this device's kind of processor. */
    public boolean measuredHere() {
        return measuredHere;
    }

    /** How far a logit may lie from its golden value; NaN where vectors are compared. */
    public double tolerance() {
        return tolerance;
    }

    /** The least cosine of a vector and its golden one; NaN where logits are compared. */
    public double cosine() {
        return cosine;
    }

    /** How many prompts, texts or clips there are. */
    public int size() {
        return prompts.size() + examples.size();
    }

    /** What they are called: prompts, texts or clips. */
    String what() {
        return what;
    }

    List<Example> examples() {
        return Collections.unmodifiableList(examples);
    }

    /** Of clips, too. */
    List<Prompt> prompts() {
        return Collections.unmodifiableList(prompts);
    }
}
