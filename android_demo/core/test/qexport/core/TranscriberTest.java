package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.Test;

public class TranscriberTest {
    private static final int RATE = 1600;

    /** Keeps what is heard. */
    private static final class Heard implements Generation.Listener {
        final StringBuilder text = new StringBuilder();
        final List<String> pieces = new ArrayList<>();
        final List<Integer> ends = new ArrayList<>();
        Runnable after = () -> { };

        @Override
        public void prefilled(int done, int all) {
            ends.add(done);
        }

        @Override
        public void text(String piece) {
            text.append(piece);
            pieces.add(piece);
            after.run();
        }
    }

    private final Heard heard = new Heard();

    @Test
    public void writesAsItComes() throws Exception {
        Samples.Hearing engine = new Samples.Hearing("Hö ok");
        Statistics statistics = transcriber(engine).transcribe(new float[RATE], heard);
        assertEquals(Arrays.asList("H", "ö", " ", "o", "k"), heard.pieces);
        assertEquals(Arrays.asList(RATE), heard.ends);
        assertEquals(Statistics.End.STOP, statistics.end());
        assertEquals(6, statistics.newTokens());
        assertEquals(2, statistics.promptTokens());
        assertEquals(4 * 3000, engine.features.length);
        assertEquals(0, engine.past());
    }

    @Test
    public void tokensThatAreForbiddenAreNotWritten() throws Exception {
        Samples.Hearing engine = new Samples.Hearing("a!") {
            @Override
            public void feed(int[] ids, float[] logits) throws EngineException {
                super.feed(ids, logits);
                logits['!'] = 100;
                logits[' '] = told == 0 ? 50 : 0;
            }
        };
        transcriber(engine).transcribe(new float[RATE], heard);
        assertEquals('a', heard.text.charAt(0));
        assertEquals(-1, heard.text.indexOf("!"));
    }

    @Test
    public void theFirstSpaceIsNoText() throws Exception {
        Samples.Hearing engine = new Samples.Hearing("\n\t a b");
        transcriber(engine).transcribe(new float[RATE], heard);
        assertEquals("a b", heard.text.toString());
    }

    @Test
    public void aLongSoundIsCutWhereItIsQuiet() throws Exception {
        float[] sound = WaveTest.tone(70 * RATE, 100, RATE);
        Arrays.fill(sound, 27 * RATE, 27 * RATE + RATE / 4, 0);
        Samples.Hearing engine = new Samples.Hearing("x");
        transcriber(engine).transcribe(sound, heard);
        assertEquals(3, engine.heard);
        assertEquals("xxx", heard.text.toString());
        int first = heard.ends.get(0);
        assertTrue("" + first, first > 27 * RATE && first < 27 * RATE + RATE / 4);
        assertTrue(heard.ends.get(1) - first <= 30 * RATE);
        assertEquals(70 * RATE, (int) heard.ends.get(2));
    }

    @Test
    public void endsWhereTheContextDoes() throws Exception {
        Samples.Hearing engine = new Samples.Hearing("a very long tale that never ends");
        Statistics statistics = transcriber(engine).transcribe(new float[RATE], heard);
        assertEquals("a very long ta", heard.text.toString());
        assertEquals(14, statistics.newTokens());
        assertEquals(15, engine.fed);  // the last token need not be taken
    }

    @Test
    public void cancelEndsIt() throws Exception {
        Samples.Hearing engine = new Samples.Hearing("abc");
        Transcriber transcriber = transcriber(engine);
        heard.after = transcriber::cancel;
        Statistics statistics = transcriber.transcribe(new float[90 * RATE], heard);
        assertEquals(Statistics.End.CANCELLED, statistics.end());
        assertEquals("a", heard.text.toString());
        assertEquals(1, engine.heard);
        heard.after = () -> { };
        engine.cancelled = false;
        assertEquals(Statistics.End.STOP, transcriber.transcribe(new float[RATE], heard).end());
        assertEquals("aabc", heard.text.toString());
    }

    @Test
    public void cancelEndsListeningToo() throws Exception {
        Samples.Hearing engine = new Samples.Hearing("abc");
        Transcriber transcriber = transcriber(engine);
        engine.listening = transcriber::cancel;
        Statistics statistics = transcriber.transcribe(new float[RATE], heard);
        assertEquals(Statistics.End.CANCELLED, statistics.end());
        assertEquals(0, statistics.newTokens());
        assertEquals("", heard.text.toString());
    }

    @Test
    public void refusesWhatIsNoSound() throws Exception {
        Transcriber transcriber = transcriber(new Samples.Hearing("x"));
        assertEquals("There is no sound; choose another file or record it again",
                refused(transcriber, new float[0]));
        float[] sound = new float[RATE];
        sound[7] = Float.NaN;
        assertEquals("Sample 7 of the sound is NaN, which is no finite number; record or convert it again",
                refused(transcriber, sound));
        Samples.Hearing engine = new Samples.Hearing("x");
        engine.broken = true;
        assertEquals("broken", refused(transcriber(engine), new float[RATE]));
    }

    @Test
    public void silenceAndTonesAsTheScaleSays() throws Exception {
        SpeechModel model = Samples.speech();
        float[] silence = new LogMel(model).of(new float[100], 0, 100);
        float[] flat = new float[4 * 3000];
        Arrays.fill(flat, (-10 + 4) / 4f);
        assertArrayEquals(flat, silence, 0);
        // 4 bands up to 800 Hz, evenly: their middles lie at 160, 320, 480 and 640 Hz
        for (int band = 0; band < 4; band++) {
            float[] features = new LogMel(model).of(WaveTest.tone(RATE, 160 * (band + 1), RATE), 0, RATE);
            for (int other = 0; other < 4; other++) {
                assertTrue(other == band || features[band * 3000 + 50] > features[other * 3000 + 50]);
            }
            assertEquals(features[50 + band * 3000] - 2, features[2999 + band * 3000], 0.2);  // 8 decades below
        }
    }

    @Test
    public void readsItsSectionAndRefusesBrokenOnes() throws Exception {
        SpeechModel model = Samples.speech();
        assertEquals(3000, model.frames());
        assertArrayEquals(new int[] {33}, model.never());
        String again = "; write the folder again with `qexport bundle`";
        broken("'prompt':[1,2]", "'prompt':[]", "prompt holds 0 tokens, not 1 to 15" + again);
        broken("'prompt':[1,2]", "'prompt':[256]", "prompt[0] is 256, not in 0 to 255" + again);
        broken("'n_fft':40", "'n_fft':41", "mel.n_fft is 41, hop 16, samples 48000; an even window and whole frames are "
                + "needed" + again);
        broken("'highest_hz':800.0", "'highest_hz':801", "mel.highest_hz is 801.0, floor 1.0E-10, range 8.0; each must be "
                + "more than 0, and the first at most half the sampling rate" + again);
        broken("'decoder':'model.ort'", "'decoder':'d'", "decoder is \"d\", which is not among the files" + again);
    }

    private static void broken(String from, String to, String message) {
        assertTrue(Samples.SPEECH.contains(from));
        assertEquals("bundle.json: speech." + message, assertThrows(BundleException.class,
                () -> Samples.bundleOf("automatic-speech-recognition", Samples.SPEECH.replace(from, to))).getMessage());
    }

    private static Transcriber transcriber(SpeechEngine engine) throws BundleException {
        return new Transcriber(Samples.speech(), new Samples.Bytes(), engine);
    }

    private String refused(Transcriber transcriber, float[] sound) {
        return assertThrows(EngineException.class, () -> transcriber.transcribe(sound, heard)).getMessage();
    }
}
