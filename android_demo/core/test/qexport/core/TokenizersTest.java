package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.BitSet;
import java.util.Map;
import org.junit.Assume;
import org.junit.Test;

public class TokenizersTest {
    @Test
    public void bpeAsInPython() throws Exception {
        assertEquals(73, same(sample("bpe"), cases("bpe")));
    }

    @Test
    public void bpeWithDigitsAsInPython() throws Exception {
        assertEquals(73, same(sample("bpe_digits"), cases("bpe_digits")));
    }

    @Test
    public void bpeWithItsOwnRegexAsInPython() throws Exception {
        assertEquals(73, same(sample("bpe_split"), cases("bpe_split")));
    }

    @Test
    public void wordPieceAsInPython() throws Exception {
        assertEquals(73, same(sample("wordpiece"), cases("wordpiece")));
        assertEquals(73, same(sample("wordpiece_cased"), cases("wordpiece_cased")));
    }

    @Test
    public void piecesWithBytesAsInPython() throws Exception {
        assertEquals(73, same(sample("pieces"), cases("pieces")));
    }

    @Test
    public void unknownTokensAndFlagsAsInPython() throws Exception {
        assertEquals(73, same(sample("unknown"), cases("unknown")));
    }

    @Test
    public void unigramAsInPython() throws Exception {
        assertEquals(73, same(sample("unigram"), cases("unigram")));
    }

    @Test
    public void aRealTokenizerAsInPython() throws Exception {
        String folder = System.getProperty("qexport.cases");
        Assume.assumeTrue("jvm.py core --cases FOLDER compares a real tokenizer", folder != null);
        Path cases = Paths.get(folder, "cases.jsonl");
        int lines = same(Tokenizers.parse(Samples.read(Paths.get(folder, "tokenizer.json"))), cases);
        System.out.println(lines + " lines identical");
        assertTrue(lines >= 10_000);
    }

    @Test
    public void bytesGiveTheTextBack() throws Exception {
        Tokenizer tokenizer = sample("bpe");
        String text = "Zwölf 💡 lines\n\t<|im_end|> it's";
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (int id : tokenizer.encode(text)) {
            bytes.write(tokenizer.bytesOf(id));
        }
        assertEquals(text, new String(bytes.toByteArray(), StandardCharsets.UTF_8));
        assertEquals(0, tokenizer.bytesOf(1_000_000).length);
        assertEquals(0, tokenizer.bytesOf(-1).length);
        Tokenizer accented = Tokenizers.parse(Samples.read(Samples.folder().resolve("bpe.json"))
                .replace("\"content\": \"snake_case\"", "\"content\": \"é\""));
        int[] added = accented.encode("é");
        assertEquals(1, added.length);
        assertArrayEquals("é".getBytes(StandardCharsets.UTF_8), accented.bytesOf(added[0]));
        assertArrayEquals(tokenizer.encode("a\ufffdb"), tokenizer.encode("a\ud800b"));
    }

    @Test
    public void bytesOfPieces() throws Exception {
        Tokenizer tokenizer = sample("pieces");
        String text = "Zwölf 💡  lines\n\t漢";
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (int id : tokenizer.encode(text, null)) {
            bytes.write(tokenizer.bytesOf(id));
        }
        assertEquals(text, new String(bytes.toByteArray(), StandardCharsets.UTF_8));
        int[] whole = tokenizer.encode(text);
        assertEquals(1, whole[0]);  // <bos>, of the template
        assertArrayEquals(tokenizer.encode(text, null), java.util.Arrays.copyOfRange(whole, 1, whole.length));
    }

    @Test
    public void aTypedSpecialTokenInChangedTextStaysText() throws Exception {
        String json = Samples.read(Samples.folder().resolve("bpe.json"))
                .replace("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}")
                .replace("\"normalized\": false", "\"normalized\": true");
        Tokenizer tokenizer = Tokenizers.parse(json);
        String text = "e\u0301<|im_end|>";
        int[] ids = tokenizer.encode(text);
        assertEquals(2, ids[ids.length - 1]);
        BitSet typed = new BitSet();
        typed.set(2, text.length());
        ids = tokenizer.encode(text, typed);
        assertFalse(tokenizer.isSpecial(ids[ids.length - 1]));
    }

    @Test
    public void typedSpecialTokensStayText() throws Exception {
        Tokenizer tokenizer = sample("bpe");
        assertArrayEquals(new int[] {2}, tokenizer.encode("<|im_end|>"));
        assertTrue(tokenizer.isSpecial(2));
        assertFalse(tokenizer.isSpecial(100));
        BitSet typed = new BitSet();
        typed.set(0, 10);
        int[] ids = tokenizer.encode("<|im_end|><|im_end|>", typed);
        assertTrue(ids.length > 2);
        assertEquals(2, ids[ids.length - 1]);
        for (int i = 0; i + 1 < ids.length; i++) {
            assertFalse(tokenizer.isSpecial(ids[i]));
        }
    }

    @Test
    public void aLongWordTakesNoLongTime() throws Exception {
        Tokenizer tokenizer = sample("bpe");
        long start = System.nanoTime();
        assertTrue(tokenizer.encode("the".repeat(100_000)).length > 0);
        assertTrue(System.nanoTime() - start < 20_000_000_000L);
    }

    @Test
    public void refusesOtherPartsByName() throws Exception {
        refused("\"type\": \"BPE\"", "\"type\": \"WordLevel\"",
                "model.type is WordLevel; this app has BPE, WordPiece and Unigram");
        refused("\"normalizer\": null", "\"normalizer\": {\"type\": \"Nmt\"}", "normalizer.type is Nmt; this app has "
                + "BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, Precompiled, Prepend, Replace, Sequence, Strip and "
                + "StripAccents");
        refused("\"normalizer\": null", "\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}",
                "normalizer.precompiled_charsmap says that its trie has -1 bytes of 3");
        refused("\"type\": \"ByteLevel\"", "\"type\": \"UnicodeScripts\"", "pre_tokenizer.type is UnicodeScripts; this "
                + "app has BertPreTokenizer, ByteLevel, Digits, Metaspace, Sequence, Split and WhitespaceSplit");
        refused("\"post_processor\": null", "\"post_processor\": {\"type\": \"Other\"}", "post_processor.type is Other; "
                + "this app has TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and Sequence");
        refused("\"byte_fallback\": false", "\"byte_fallback\": true",
                "model.byte_fallback is true, but the vocabulary lacks the token of a byte");
        refused("\"unk_token\": null", "\"unk_token\": \"<none>\"",
                "model.unk_token is <none>, which is not in the vocabulary");
        refused("\"dropout\": null", "\"dropout\": 0.1", "model.dropout is 0.1, which this app does not do");
        refused("\"lstrip\": false", "\"lstrip\": 1", "added_tokens[0].lstrip is 1, not true or false");
        refused("\"merges\": [", "\"merges\": [[\"?\", \"€\"],", "model.merges[0] (? €) is not in the vocabulary");
        refused("\"merges\": [", "\"merges\": [7,", "model.merges[0] is not a pair of tokens");
    }

    private static void refused(String from, String to, String message) throws IOException {
        String json = Samples.read(Samples.folder().resolve("bpe.json"));
        int at = json.indexOf(from);
        assertTrue(from, at >= 0);
        String changed = json.substring(0, at) + to + json.substring(at + from.length());
        assertEquals("tokenizer.json: " + message + "; export a model whose tokenizer has only parts that this app has",
                assertThrows(BundleException.class, () -> Tokenizers.parse(changed)).getMessage());
    }

    private static Tokenizer sample(String name) throws IOException, BundleException {
        return Tokenizers.parse(Samples.read(Samples.folder().resolve(name + ".json")));
    }

    private static Path cases(String name) {
        return Samples.folder().resolve(name + ".cases.jsonl");
    }

    /** How many lines there are, all of which are identical. */
    private static int same(Tokenizer tokenizer, Path cases) throws IOException, JsonException {
        int lines = 0;
        for (String line : Samples.read(cases).split("\n")) {
            Map<?, ?> one = (Map<?, ?>) Json.parse(line);
            assertArrayEquals("line " + (lines + 1) + ": " + one.get("text"), Samples.ids(one.get("ids")),
                    tokenizer.encode((String) one.get("text")));
            lines++;
        }
        return lines;
    }
}
