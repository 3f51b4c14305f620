package qexport.core;

/** The special tokens around a text, such as [CLS] and [SEP]: `post_processor` for a single text. */
final class Template {
    private int[] before = {};
    private int[] after = {};

    Template(Fields tokenizer) throws BundleException {
        if (tokenizer.has("post_processor")) {
            add(tokenizer.object("post_processor"));
        }
    }

    int[] around(int[] ids) {
        return joined(joined(before, ids), after);
    }

    /** How many tokens it puts around a text. */
    int size() {
        return before.length + after.length;
    }

    private void add(Fields step) throws BundleException {
        String type = step.string("type");
        switch (type) {
            case "ByteLevel":  // of offsets only
                break;
            case "Sequence":
                for (Fields inner : step.objects("processors")) {
                    add(inner);
                }
                break;
            case "TemplateProcessing":
                addTemplate(step);
                break;
            case "BertProcessing":
            case "RobertaProcessing":
                put(new int[] {second(step, "cls")}, new int[] {second(step, "sep")});
                break;
            default:
                throw step.wrong("type", "is " + type + "; this app has TemplateProcessing, BertProcessing, "
                        + "RobertaProcessing, ByteLevel and Sequence");
        }
    }

    private void addTemplate(Fields step) throws BundleException {
        Ids left = new Ids();
        Ids right = new Ids();
        int texts = 0;
        for (Fields piece : step.objects("single")) {
            if (piece.has("Sequence")) {
                texts++;
            } else {
                String name = piece.object("SpecialToken").string("id");
                Fields token = step.object("special_tokens").object(name);
                (texts == 0 ? left : right).addAll(token.integers("ids", 0, 1 << 24));
            }
        }
        if (texts != 1) {
            throw step.wrong("single", "holds the text " + texts + " times, not once");
        }
        put(left.toArray(), right.toArray());
    }

    /** A later step's tokens stand outside of an earlier one's. */
    private void put(int[] left, int[] right) {
        before = joined(left, before);
        after = joined(after, right);
    }

    private static int second(Fields step, String key) throws BundleException {
        Object id = step.list(key).size() == 2 ? step.list(key).get(1) : null;
        if (!(id instanceof Long) || (Long) id >> 24 != 0) {
            throw step.wrong(key, "is not a pair of a token and its id");
        }
        return ((Long) id).intValue();
    }

    private static int[] joined(int[] left, int[] right) {
        int[] result = java.util.Arrays.copyOf(left, left.length + right.length);
        System.arraycopy(right, 0, result, left.length, right.length);
        return result;
    }
}
