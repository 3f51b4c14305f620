package qexport.core;

import static org.junit.Assert.assertEquals;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Random;
import org.junit.Test;

public class Utf8StreamTest {
    @Test
    public void aCharacterComesWithItsLastByte() {
        Utf8Stream stream = new Utf8Stream();
        byte[] bulb = "a💡".getBytes(StandardCharsets.UTF_8);
        assertEquals("a", stream.add(Arrays.copyOfRange(bulb, 0, 2)));
        assertEquals("", stream.add(Arrays.copyOfRange(bulb, 2, 4)));
        assertEquals("💡", stream.add(Arrays.copyOfRange(bulb, 4, 5)));
        assertEquals("", stream.finish());
    }

    @Test
    public void brokenBytesBecomeReplacements() {
        Utf8Stream stream = new Utf8Stream();
        assertEquals("\ufffdx", stream.add(new byte[] {(byte) 0xff, 'x'}));
        assertEquals("", stream.add(new byte[] {(byte) 0xe2, (byte) 0x82}));
        assertEquals("\ufffdy", stream.add(new byte[] {'y'}));
        assertEquals("", stream.add(new byte[] {(byte) 0xf0, (byte) 0x9f}));
        assertEquals("\ufffd", stream.finish());
        assertEquals("z", stream.add(new byte[] {'z'}));  // as new
    }

    @Test
    public void anyCutGivesTheSameText() {
        Random random = new Random(1);
        for (int round = 0; round < 500; round++) {
            byte[] bytes = new byte[40];
            random.nextBytes(bytes);
            byte[] good = "é€💡".getBytes(StandardCharsets.UTF_8);
            System.arraycopy(good, 0, bytes, 10, good.length);
            Utf8Stream stream = new Utf8Stream();
            StringBuilder text = new StringBuilder();
            for (int at = 0; at < bytes.length;) {
                int to = Math.min(bytes.length, at + 1 + random.nextInt(4));
                text.append(stream.add(Arrays.copyOfRange(bytes, at, to)));
                at = to;
            }
            assertEquals(new String(bytes, StandardCharsets.UTF_8), text + stream.finish());
        }
    }
}
