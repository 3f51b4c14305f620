package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.List;
import java.util.Map;
import org.junit.Test;

/** Each step of a tokenizer by itself against what Python's library makes of the same texts. */
public class TokenizerStepsTest {
    private interface Step {
        Object apply(String text);
    }

    @Test
    public void changesAsInPython() throws Exception {
        int steps = 0;
        for (String line : lines("changes.jsonl")) {
            TextNormalizer normalizer = new TextNormalizer(Fields.of("changes.jsonl", line, ""));
            same((Map<?, ?>) Json.parse(line), "normalizer", "changed", normalizer::apply);
            steps++;
        }
        assertEquals(18, steps);
    }

    @Test
    public void wordsAsInPython() throws Exception {
        int steps = 0;
        for (String line : lines("cuts.jsonl")) {
            PreTokenizer pre = new PreTokenizer(Fields.of("cuts.jsonl", line, ""));
            same((Map<?, ?>) Json.parse(line), "pre_tokenizer", "words", text -> pre.split(text, true));
            steps++;
        }
        assertEquals(18, steps);
    }

    @Test
    public void templatesAsInPython() throws Exception {
        int steps = 0;
        for (String line : lines("templates.jsonl")) {
            Map<?, ?> one = (Map<?, ?>) Json.parse(line);
            Template template = new Template(Fields.of("templates.jsonl", line, ""));
            assertArrayEquals(line, Samples.ids(one.get("whole")), template.around(Samples.ids(one.get("plain"))));
            steps++;
        }
        assertEquals(6, steps);
    }

    /** Any bytes for a table: text or a message, no crash. */
    @Test
    public void aBrokenTableDoesNoHarm() throws Exception {
        java.util.Random random = new java.util.Random(3);
        for (int round = 0; round < 300; round++) {
            byte[] table = new byte[4 + 4 * (1 + random.nextInt(40)) + random.nextInt(9)];
            random.nextBytes(table);
            int size = (table.length - 4) / 4 * 4;
            table[0] = (byte) size;
            table[1] = 0;
            table[2] = 0;
            table[3] = 0;
            String json = "{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \""
                    + java.util.Base64.getEncoder().encodeToString(table) + "\"}}";
            assertTrue(new TextNormalizer(Fields.of("t", json, "")).apply("aé漢💡\r\n").length() >= 0);
        }
        assertEquals("t: normalizer.precompiled_charsmap is not base64; x", assertThrows(BundleException.class,
                () -> new TextNormalizer(Fields.of("t",
                        "{\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"?\"}}", "x"))).getMessage());
    }

    private static String[] lines(String name) throws java.io.IOException {
        return Samples.read(Samples.folder().resolve(name)).split("\n");
    }

    private static void same(Map<?, ?> one, String step, String expected, Step found) {
        List<?> texts = (List<?>) one.get("texts");
        for (int i = 0; i < texts.size(); i++) {
            assertEquals(one.get(step) + " of " + texts.get(i), ((List<?>) one.get(expected)).get(i),
                    found.apply((String) texts.get(i)));
        }
    }
}
