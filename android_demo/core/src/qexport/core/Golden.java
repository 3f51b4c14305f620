package qexport.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** golden.json: prompts, and what the exported model answered where it was measured. */
public final class Golden {
    /** One prompt and its values of one column. */
    static final class Prompt {
        final String text;
        final int[] inputIds;
        final int[] greedy;
        final int[] topIds;
        final double[] topLogits;

        Prompt(Fields prompt, String column, int vocab) throws BundleException {
            text = prompt.string("text");
            inputIds = prompt.integers("input_ids", 0, vocab - 1);
            Fields values = prompt.object("values").object(column);
            greedy = values.integers("greedy", 0, vocab - 1);
            topIds = values.integers("top_ids", 0, vocab - 1);
            topLogits = values.reals("top_logits");
            if (topIds.length != topLogits.length || topIds.length == 0) {
                throw values.wrong("top_logits", "holds " + topLogits.length + " numbers, top_ids " + topIds.length);
            }
            if (inputIds.length == 0 || greedy.length == 0) {
                throw values.wrong(inputIds.length == 0 ? "input_ids" : "greedy", "is empty");
            }
        }
    }

    private final String column;
    private final boolean measuredHere;
    private final double tolerance;
    private final List<Prompt> prompts = new ArrayList<>();

    private Golden(Fields golden, String abi, int vocab) throws BundleException {
        List<String> columns = golden.strings("columns");
        if (columns.isEmpty()) {
            throw golden.wrong("columns", "is empty");
        }
        measuredHere = columns.contains(abi);
        column = measuredHere ? abi : nearest(columns, abi);
        tolerance = golden.object("tolerance").real("logits");
        if (!(tolerance >= 0)) {
            throw golden.wrong("tolerance.logits", "is " + tolerance + ", less than 0");
        }
        for (Fields prompt : golden.objects("prompts")) {
            prompts.add(new Prompt(prompt, column, vocab));
        }
        if (prompts.isEmpty()) {
            throw golden.wrong("prompts", "is empty");
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

    /** How far a logit may lie from its golden value. */
    public double tolerance() {
        return tolerance;
    }

    List<Prompt> prompts() {
        return Collections.unmodifiableList(prompts);
    }
}
