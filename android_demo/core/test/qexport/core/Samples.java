package qexport.core;

import java.io.ByteArrayInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** What several tests use: a bundle's text, files in memory, a tokenizer of letters and an engine that follows a script. */
final class Samples {
    static final String BUNDLE = "{'schema':1,'id':'tiny','title':'Tiny','task':'text-generation','runtime':'onnxruntime',"
            + "'min_runtime':'1.23','operators':['ai.onnx::Add'],'abis':['arm64-v8a'],'variant':{'group':'g','rank':1},"
            + "'model':'model.ort','files':[{'path':'golden.json','bytes':2,'sha256':'"
            + "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'},"  // {}
            + "{'path':'model.ort','bytes':3,'sha256':'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'},"  // abc
            + "{'path':'tokenizer.json','bytes':2,'sha256':'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'}],"
            + "'memory':{'load_bytes':1048576,'kv_bytes_per_token':1024},'license':null,'golden':'golden.json',"
            + "'text':{'tokenizer':'tokenizer.json','context':64,'bos_id':null,'add_bos':false,'stop_ids':[0],'vocab':256,"
            + "'layers':2,'kv_heads':1,'head_size':4,'chat':{'begin':'','default_system':'Be kind','system':['S:',';'],"
            + "'user':['U:',';'],'assistant':['A:',';'],'generation':'A:'}}}";

    /** For vectors: of two numbers. Letters are tokens. */
    static final String ENCODER = "'encoder':{'tokenizer':'tokenizer.json','max_tokens':8,'vocab':256,'width':2,"
            + "'output':'sentence_embedding','normalised':true,'labels':[],'prefix':'','query_prefix':'q:',"
            + "'document_prefix':'d:'}";

    /** Hears 30 seconds at 1600 Hz; [SPACE] is never first, ! never written. */
    static final String SPEECH = "'speech':{'tokenizer':'tokenizer.json','encoder':'model.ort','decoder':'model.ort',"
            + "'mel':{'input':'input_features','sampling_rate':1600,'samples':48000,'n_fft':40,'hop':16,'bins':4,"
            + "'highest_hz':800.0,'floor':1e-10,'range':8.0},'prompt':[1,2],'never':[33],'never_first':[32],"
            + "'stop_ids':[0],'context':16,'vocab':256,'layers':1,'heads':1,'head_size':4}";

    private Samples() {
    }

    /** A bundle of another task, with the section that it needs. */
    static Bundle bundleOf(String task, String section) throws BundleException {
        String head = BUNDLE.substring(0, BUNDLE.indexOf("'text':"));
        return Bundle.parse(json(head.replace("text-generation", task) + section + "}"));
    }

    static EncoderModel encoder() throws BundleException {
        return bundleOf("feature-extraction", ENCODER).encoder();
    }

    static EncoderModel classifier() throws BundleException {
        return bundleOf("text-classification", ENCODER.replace("'labels':[]", "'labels':['no','yes']")
                .replace("sentence_embedding", "logits")).encoder();
    }

    static SpeechModel speech() throws BundleException {
        return bundleOf("automatic-speech-recognition", SPEECH).speech();
    }

    static String json(String text) {
        return text.replace('\'', '"');
    }

    static Bundle bundle() throws BundleException {
        return Bundle.parse(json(BUNDLE));
    }

    static Bundle bundle(String from, String to) throws BundleException {
        if (!BUNDLE.contains(from)) {
            throw new AssertionError(from + " is not in the sample");
        }
        return Bundle.parse(json(BUNDLE.replace(from, to)));
    }

    static Path folder() {
        return Paths.get(System.getProperty("qexport.samples"));
    }

    static String read(Path path) throws IOException {
        return new String(java.nio.file.Files.readAllBytes(path), StandardCharsets.UTF_8);
    }

    /** A JSON list of whole numbers. */
    static int[] ids(Object list) {
        int[] ids = new int[((List<?>) list).size()];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = ((Long) ((List<?>) list).get(i)).intValue();
        }
        return ids;
    }

    static Map<String, String> contents() {
        Map<String, String> contents = new HashMap<>();
        contents.put("golden.json", "{}");
        contents.put("model.ort", "abc");
        contents.put("tokenizer.json", "{}");
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

    /** Each byte its own id; 0 and 1 are special. */
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
        public int[] encode(String text, java.util.BitSet plain) {
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
    static class Script implements Engine {
        final byte[] answer;
        final int context;
        int past;
        int told;
        int fed;
        int resets;
        Runnable before = () -> { };
        boolean broken;

        Script(String answer, int context) {
            this.answer = answer.getBytes(StandardCharsets.UTF_8);
            this.context = context;
        }

        @Override
        public void feed(int[] ids, float[] logits) throws EngineException {
            before.run();
            if (broken) {
                throw new EngineException("broken");
            }
            past += ids.length;
            fed += ids.length;
            if (past > context) {
                throw new EngineException("past the context");
            }
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
            return context;
        }

        @Override
        public void reset() {
            past = 0;
            resets++;
        }

        @Override
        public String runtimeVersion() {
            return "0";
        }

        @Override
        public void close() {
        }
    }

    /** Gives how many a and how many b a text has. */
    static class Counter implements TextEncoder {
        int[] last;

        @Override
        public int width() {
            return 2;
        }

        @Override
        public void run(int[] ids, float[] into) throws EngineException {
            last = ids;
            Arrays.fill(into, 0);
            for (int id : ids) {
                if (id == 'a' || id == 'b') {
                    into[id - 'a']++;
                }
            }
        }

        @Override
        public String runtimeVersion() {
            return "0";
        }

        @Override
        public void close() {
        }
    }

    /** Writes the script's bytes for whatever it hears. */
    static class Hearing extends Script implements SpeechEngine {
        int heard;
        boolean cancelled;
        float[] features;
        Runnable listening = () -> { };

        Hearing(String answer) {
            super(answer, 16);
        }

        @Override
        public void listen(float[] given) throws EngineException {
            listening.run();
            if (cancelled) {
                throw new EngineException("terminated");
            }
            features = given;
            heard++;
            reset();
        }

        @Override
        public void cancel() {
            cancelled = true;
        }
    }
}
