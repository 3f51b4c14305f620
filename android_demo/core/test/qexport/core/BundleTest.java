package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Map;
import org.junit.Test;

public class BundleTest {
    private static final String AGAIN = "; write the folder again with `qexport bundle`";

    @Test
    public void readsAll() throws BundleException {
        Bundle bundle = Samples.bundle();
        assertEquals("tiny", bundle.id());
        assertEquals("Tiny", bundle.title());
        assertEquals("text-generation", bundle.task());
        assertEquals("onnxruntime", bundle.runtime());
        assertEquals("1.23", bundle.minRuntime());
        assertEquals(Arrays.asList("ai.onnx::Add"), bundle.operators());
        assertEquals(Arrays.asList("arm64-v8a"), bundle.abis());
        assertEquals("model.ort", bundle.model());
        assertEquals("golden.json", bundle.golden());
        assertNull(bundle.license());
        assertEquals(3, bundle.files().size());
        assertEquals("model.ort", bundle.files().get(1).path());
        assertEquals(3, bundle.files().get(1).bytes());
        assertEquals(1048576, bundle.loadBytes());
        assertEquals(1024, bundle.kvBytesPerToken());
        assertEquals("g", bundle.variantGroup());
        assertEquals(1, bundle.variantRank());
        TextModel text = bundle.text();
        assertEquals("tokenizer.json", text.tokenizer());
        assertEquals(64, text.context());
        assertEquals(-1, text.bosId());
        assertFalse(text.addBos());
        assertArrayEquals(new int[] {0}, text.stopIds());
        assertEquals(256, text.vocab());
        assertEquals(2, text.layers());
        assertEquals(1, text.kvHeads());
        assertEquals(4, text.headSize());
        assertEquals("Be kind", text.chat().defaultSystem());
        assertEquals("U:", text.chat().before("user"));
        assertEquals(";", text.chat().after("assistant"));
        assertNull(text.chat().before("tool"));
    }

    @Test
    public void leavesOutWhatCanBe() throws BundleException {
        Bundle bundle = Samples.bundle("'variant':{'group':'g','rank':1},", "");
        assertNull(bundle.variantGroup());
        assertNull(Samples.bundle("'task':'text-generation'", "'task':'fill-mask'").text());
        assertTrue(Samples.bundle("'begin':''", "'begin':'','trim':true").text().chat().trim());
        assertNull(Samples.bundle("'system':['S:',';']", "'system':null").text().chat().before("system"));
    }

    @Test
    public void refusesWithPlaceValueAndWayOut() {
        refused("'schema':1", "'schema':2", "bundle.json: schema 2 is newer than this app reads (1); update the app");
        refused("'id':'tiny'", "'id':'../x'",
                "bundle.json: id is \"../x\", not of a-z, 0-9, _, . and - (and no . first)" + AGAIN);
        refused("'runtime':'onnxruntime'", "'runtime':'tflite'",
                "bundle.json: runtime is \"tflite\"; this app has onnxruntime and executorch" + AGAIN);
        refused("'min_runtime':'1.23'", "'min_runtime':'new'",
                "bundle.json: min_runtime is \"new\", not a version like 1.23" + AGAIN);
        refused("'title':'Tiny',", "", "bundle.json: title is missing" + AGAIN);
        refused("'title':'Tiny'", "'title':7", "bundle.json: title is 7, not a string" + AGAIN);
        refused("'model':'model.ort'", "'model':'m'",
                "bundle.json: model is \"m\", which is not among the files" + AGAIN);
        refused("'tokenizer':'tokenizer.json'", "'tokenizer':'t'",
                "bundle.json: text.tokenizer is \"t\", which is not among the files" + AGAIN);
        refused("'path':'model.ort'", "'path':'../model.ort'", "bundle.json: files[1].path is \"../model.ort\", "
                + "which is not a plain path inside the folder" + AGAIN);
        refused("'path':'model.ort'", "'path':'golden.json'",
                "bundle.json: files[1].path \"golden.json\" is listed twice" + AGAIN);
        refused("'bytes':3,'sha256':'ba", "'bytes':3,'sha256':'BA",
                "bundle.json: files[1].sha256 is not 64 hex digits in lower case" + AGAIN);
        refused("'bytes':3", "'bytes':-3", "bundle.json: files[1].bytes is -3, not in 0 to 1125899906842624" + AGAIN);
        refused("'bytes':3", "'bytes':3.5", "bundle.json: files[1].bytes is 3.5, not a whole number" + AGAIN);
        refused("'abis':['arm64-v8a']", "'abis':[1]", "bundle.json: abis[0] is 1, not a string" + AGAIN);
        refused("'operators':['ai.onnx::Add']", "'operators':{}",
                "bundle.json: operators is an object, not a list" + AGAIN);
        refused("'stop_ids':[0]", "'stop_ids':[256]", "bundle.json: text.stop_ids[0] is 256, not in 0 to 255" + AGAIN);
        refused("'add_bos':false", "'add_bos':true", "bundle.json: text.add_bos is true, but bos_id is null" + AGAIN);
        refused("'add_bos':false", "'add_bos':0", "bundle.json: text.add_bos is 0, not true or false" + AGAIN);
        refused("'user':['U:',';']", "'user':['U:']",
                "bundle.json: text.chat.user holds 1 strings, not 2 (before and after the message)" + AGAIN);
        refused("'begin':''", "'begin':'','tools':1", "bundle.json: text.chat.tools is not known to this app" + AGAIN);
        refused("'memory':{'load_bytes':1048576,'kv_bytes_per_token':1024}", "'memory':[]",
                "bundle.json: memory is a list, not an object" + AGAIN);
        assertEquals("bundle.json: holds a list, not an object" + AGAIN,
                assertThrows(BundleException.class, () -> Bundle.parse("[]")).getMessage());
        assertEquals("bundle.json: not JSON: line 1, column 2: a key in double quotes should be here" + AGAIN,
                assertThrows(BundleException.class, () -> Bundle.parse("{")).getMessage());
    }

    @Test
    public void provesEveryByte() throws BundleException {
        long[] last = new long[2];
        assertTrue(BundleCheck.verify(Samples.bundle(), Samples.files(Samples.contents()), (done, all) -> {
            last[0] = done;
            last[1] = all;
            return true;
        }));
        assertEquals(7, last[0]);
        assertEquals(7, last[1]);
        assertTrue(BundleCheck.verify(Samples.bundle(), Samples.files(Samples.contents()), null));
        assertFalse(BundleCheck.verify(Samples.bundle(), Samples.files(Samples.contents()), (done, all) -> done < 3));
    }

    @Test
    public void namesTheFileThatDiffers() {
        String again = "; install the app or copy the folder again";
        broken("abd", "tiny/model.ort: changed: sha256 a52d159f262b…, ba7816bf8f01… is listed" + again);
        broken("ab", "tiny/model.ort: 2 bytes, 3 are listed" + again);
        broken("abcd", "tiny/model.ort: longer than the 3 bytes listed" + again);
        broken(null, "tiny/model.ort: missing" + again);
    }

    private static void broken(String model, String message) {
        Map<String, String> contents = Samples.contents();
        contents.remove("model.ort");
        if (model != null) {
            contents.put("model.ort", model);
        }
        BundleException refused = assertThrows(BundleException.class,
                () -> BundleCheck.verify(Samples.bundle(), Samples.files(contents), null));
        assertEquals(message, refused.getMessage());
    }

    private static void refused(String from, String to, String message) {
        assertEquals(message, assertThrows(BundleException.class, () -> Samples.bundle(from, to)).getMessage());
    }
}
