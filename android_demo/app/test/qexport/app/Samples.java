package qexport.app;

import java.io.ByteArrayInputStream;
import java.io.FileNotFoundException;
import java.lang.ref.WeakReference;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import qexport.core.Bundle;
import qexport.core.BundleException;
import qexport.core.Engine;
import qexport.core.EngineException;
import qexport.core.Files;
import qexport.core.Tokenizer;

/** A bundle's text, files in memory, a tokenizer of bytes and an engine that follows a script. */
final class Samples {
    private static final String BUNDLE = "{'schema':1,'id':'tiny','title':'Tiny, int4','task':'text-generation',"
            + "'runtime':'onnxruntime','min_runtime':'1.23','operators':[],'abis':['arm64-v8a'],"
            + "'model':'model.ort','files':[{'path':'golden.json','bytes':2,'sha256':'"
            + "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'},"  // {}
            + "{'path':'model.ort','bytes':3,'sha256':'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'},"  // abc
            + "{'path':'more/tokenizer.json','bytes':2,'sha256':'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'}],"
            + "'memory':{'load_bytes':1048576,'kv_bytes_per_token':1024},'license':null,'golden':'golden.json',"
            + "'text':{'tokenizer':'more/tokenizer.json','context':64,'bos_id':null,'add_bos':false,'stop_ids':[0],"
            + "'vocab':256,'layers':2,'kv_heads':1,'head_size':4,'chat':{'begin':'','default_system':null,"
            + "'system':null,'user':['U:',';'],'assistant':['A:',';'],'generation':'A:'}}}";
    /** What the main thread of a test does: at once, on whichever thread. */
    static final Executor HERE = Runnable::run;

    private Samples() {
    }

    static String json(String... changes) {
        String text = BUNDLE;
        for (int i = 0; i < changes.length; i += 2) {
            if (!text.contains(changes[i])) {
                throw new AssertionError(changes[i] + " is not in the sample");
            }
            text = text.replace(changes[i], changes[i + 1]);
        }
        return text.replace('\'', '"');
    }

    static Found found(String id, String... changes) throws BundleException {
        String[] all = Arrays.copyOf(changes, changes.length + 2);
        all[changes.length] = "'id':'tiny'";
        all[changes.length + 1] = "'id':'" + id + "'";
        return new Found(id, Bundle.parse(json(all)), null, null, null);
    }

    static Map<String, String> contents() {
        Map<String, String> contents = new HashMap<>();
        contents.put("bundle.json", json());
        contents.put("golden.json", "{}");
        contents.put("model.ort", "abc");
        contents.put("more/tokenizer.json", "{}");
        return contents;
    }

    static Files files(Map<String, String> contents) {
        return path -> {
            if (!contents.containsKey(path)) {
                throw new FileNotFoundException(path);
            }
            return new ByteArrayInputStream(contents.get(path).getBytes(StandardCharsets.UTF_8));
        };
    }

    /** Waits for all that was given to the worker before. */
    static void await(Worker worker) throws InterruptedException {
        CountDownLatch latch = new CountDownLatch(1);
        worker.run(latch::countDown);
        if (!latch.await(20, TimeUnit.SECONDS)) {
            throw new AssertionError("the worker is stuck");
        }
    }

    static Model model(Script engine, Files files) throws BundleException {
        return Model.of(Bundle.parse(json()), files, new Bytes(), 1, engine,
                () -> engine.problem = new EngineException("interrupted"));
    }

    /** Whether the garbage collector finds that nothing holds the object. */
    static boolean forgotten(WeakReference<?> object) throws InterruptedException {
        for (int i = 0; i < 50 && object.get() != null; i++) {
            System.gc();
            Thread.sleep(10);
        }
        return object.get() == null;
    }

    static List<String> list(String... values) {
        return Arrays.asList(values);
    }

    /** Each byte its own id. */
    static final class Bytes implements Tokenizer {
        @Override
        public int[] encode(String text) {
            byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
            int[] ids = new int[bytes.length];
            for (int i = 0; i < ids.length; i++) {
                ids[i] = bytes[i] & 255;
            }
            return ids;
        }

        @Override
        public int[] encode(String text, int most) {
            return Arrays.copyOf(encode(text), Math.min(most, encode(text).length));
        }

        @Override
        public int[] encode(String text, BitSet plain) {
            return encode(text);
        }

        @Override
        public byte[] bytesOf(int id) {
            return new byte[] {(byte) id};
        }

        @Override
        public boolean isSpecial(int id) {
            return id < 2;
        }
    }

    /** After a prompt, answers the script's bytes one by one, then 0. */
    static final class Script implements Engine {
        Runnable before = () -> { };
        EngineException problem;
        boolean closed;
        private final byte[] answer;
        private int past;
        private int told;

        Script(String answer) {
            this.answer = answer.getBytes(StandardCharsets.UTF_8);
        }

        @Override
        public void feed(int[] ids, float[] logits) throws EngineException {
            before.run();
            if (problem != null) {
                throw problem;
            }
            past += ids.length;
            told = ids.length == 1 ? told + 1 : 0;
            Arrays.fill(logits, 0);
            logits[told < answer.length ? answer[told] & 255 : 0] = 9;
        }

        @Override
        public int past() {
            return past;
        }

        @Override
        public int context() {
            return 64;
        }

        @Override
        public void reset() {
            past = 0;
        }

        @Override
        public String runtimeVersion() {
            return "1.29.0";
        }

        @Override
        public void close() {
            closed = true;
        }
    }
}
