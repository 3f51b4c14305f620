package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import org.junit.Test;

public class SamplerTest {
    private static final float[] LOGITS = {0, 2, 1, 2, -3};

    @Test
    public void greedyTakesTheFirstOfEquals() throws EngineException {
        assertEquals(1, new Sampler(Settings.greedy(1)).next(LOGITS));
        assertEquals(1, new Sampler(new Settings(2, 1, 1, 7, 1)).next(LOGITS));
    }

    @Test
    public void ordersByLogitThenId() {
        int[] ids = new int[5];
        for (int k : new int[] {0, 5, 9}) {
            long[] keys = Sampler.likeliest(LOGITS, k);
            for (int i = 0; i < 5; i++) {
                ids[i] = Sampler.id(keys[i]);
            }
            assertArrayEquals(new int[] {1, 3, 2, 0, 4}, ids);
        }
        long[] two = Sampler.likeliest(new float[] {-5, -0f, 0f, -4}, 2);
        assertEquals(1, Sampler.id(two[0]));
        assertEquals(2, Sampler.id(two[1]));
    }

    @Test
    public void drawsAsOftenAsTheProbabilitiesSay() throws EngineException {
        int draws = 200_000;
        double[] weights = {Math.exp(-1), 1, Math.exp(-0.5), 1, Math.exp(-2.5)};  // of LOGITS / 2
        double all = weights[0] + weights[1] + weights[2] + weights[3] + weights[4];
        int[] counts = counts(new Settings(2, 0, 1, 5, 1), draws);
        for (int i = 0; i < counts.length; i++) {
            double p = weights[i] / all;
            assertEquals(p, counts[i] / (double) draws, 5 * Math.sqrt(p * (1 - p) / draws));
        }
    }

    @Test
    public void topKAndTopPLeaveTheLikeliest() throws EngineException {
        int[] counts = counts(new Settings(1, 3, 1, 5, 1), 2000);
        assertTrue(counts[1] > 0 && counts[2] > 0 && counts[3] > 0);
        assertEquals(0, counts[0] + counts[4]);
        counts = counts(new Settings(1, 0, 0.5f, 5, 1), 2000);
        assertTrue(counts[1] > 0 && counts[3] > 0);
        assertEquals(2000, counts[1] + counts[3]);
        counts = counts(new Settings(1, 0, 1e-6f, 5, 1), 100);
        assertEquals(100, counts[1]);
    }

    @Test
    public void theSeedDecides() throws EngineException {
        assertArrayEquals(counts(new Settings(1, 0, 1, 3, 1), 50), counts(new Settings(1, 0, 1, 3, 1), 50));
        SplitMix64 random = new SplitMix64(1234567);  // the published values
        assertEquals("6457827717110365317", Long.toUnsignedString(random.next()));
        assertEquals("3203168211198807973", Long.toUnsignedString(random.next()));
        assertEquals("9817491932198370423", Long.toUnsignedString(random.next()));
    }

    @Test
    public void refusesNumbersThatAreNone() {
        assertEquals("The model gave NaN for token 1 of 2: its numbers broke down on this device; run the self-test, or "
                + "use another variant", refused(new float[] {1, Float.NaN}));
        assertTrue(refused(new float[] {Float.POSITIVE_INFINITY}).startsWith("The model gave Infinity for token 0 of 1"));
        assertEquals("The model gave no token any chance (1 logits); run the self-test, or use another variant",
                refused(new float[] {Float.NEGATIVE_INFINITY}));
        refused(new float[0]);
    }

    @Test
    public void impossibleTokensAreNeverDrawn() throws EngineException {
        Sampler sampler = new Sampler(new Settings(5, 0, 1, 1, 1));
        for (int i = 0; i < 1000; i++) {
            assertEquals(1, sampler.next(new float[] {Float.NEGATIVE_INFINITY, 0, Float.NEGATIVE_INFINITY}));
        }
    }

    @Test
    public void settingsAreChecked() {
        wrong(-1, 0, 1, 1, "Temperature is -1.0; choose 0 (greedy) to 5");
        wrong(Float.NaN, 0, 1, 1, "Temperature is NaN; choose 0 (greedy) to 5");
        wrong(1, -1, 1, 1, "Top-k is -1; choose 0 (off) or more");
        wrong(1, 0, 0, 1, "Top-p is 0.0; choose more than 0, at most 1 (off)");
        wrong(1, 0, 1.5f, 1, "Top-p is 1.5; choose more than 0, at most 1 (off)");
        wrong(1, 0, 1, 0, "Most new tokens is 0; choose 1 or more");
    }

    private static void wrong(float temperature, int topK, float topP, int most, String message) {
        assertEquals(message, assertThrows(IllegalArgumentException.class,
                () -> new Settings(temperature, topK, topP, 0, most)).getMessage());
    }

    private static String refused(float[] logits) {
        return assertThrows(EngineException.class,
                () -> new Sampler(new Settings(1, 0, 1, 0, 1)).next(logits)).getMessage();
    }

    private static int[] counts(Settings settings, int draws) throws EngineException {
        Sampler sampler = new Sampler(settings);
        int[] counts = new int[LOGITS.length];
        for (int i = 0; i < draws; i++) {
            counts[sampler.next(LOGITS)]++;
        }
        return counts;
    }
}
