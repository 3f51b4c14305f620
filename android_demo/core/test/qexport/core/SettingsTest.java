package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import org.junit.Test;

public class SettingsTest {
    @Test
    public void readsWhatWasTyped() {
        Settings settings = Settings.parse(" 0,7", "40", ".9", "-5", "256 ");
        assertEquals(0.7f, settings.temperature(), 0);
        assertEquals(40, settings.topK());
        assertEquals(0.9f, settings.topP(), 0);
        assertEquals(-5, settings.seed());
        assertEquals(256, settings.maxNewTokens());
        assertEquals(1.5f, Settings.parse("\u0661\u066b\u0665", "\u06f4", "1", "0", "1").temperature(), 0);
    }

    @Test
    public void namesTheFieldAndTheWayOut() {
        wrong("", "1", "1", "1", "1", "Temperature is empty; write a number like 0.7");
        wrong("NaN", "1", "1", "1", "1", "Temperature is \"NaN\", not a number; write one like 0.7");
        wrong("1e9", "1", "1", "1", "1", "Temperature is \"1e9\", not a number; write one like 0.7");
        wrong("1,000.5", "1", "1", "1", "1", "Temperature is \"1,000.5\", not a number; write one like 0.7");
        wrong("-1", "1", "1", "1", "1", "Temperature is -1.0; choose 0 (greedy) to 5");
        wrong("9".repeat(99), "1", "1", "1", "1", "Temperature is Infinity; choose 0 (greedy) to 5");
        wrong("1", "", "1", "1", "1", "Top-k is empty; write a number like 40");
        wrong("1", "-1", "1", "1", "1", "Top-k is -1; choose 0 (off) or more");
        wrong("1", "1.5", "1", "1", "1", "Top-k is \"1.5\", not a whole number; write one like 40");
        wrong("1", "9999999999", "1", "1", "1", "Top-k is 9999999999, at most 2147483647; write one like 40");
        wrong("1", "1", "0", "1", "1", "Top-p is 0.0; choose more than 0, at most 1 (off)");
        wrong("1", "1", "1", "x", "1", "Seed is \"x\", not a whole number; write one like 1");
        wrong("1", "1", "1", "1", "0", "Most new tokens is 0; choose 1 or more");
    }

    private static void wrong(String temperature, String topK, String topP, String seed, String most, String message) {
        assertEquals(message, assertThrows(IllegalArgumentException.class,
                () -> Settings.parse(temperature, topK, topP, seed, most)).getMessage());
    }
}
