package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertThrows;

import java.io.ByteArrayInputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.junit.Test;

public class WaveTest {
    private static final String CONVERT = "; convert it to WAV, PCM with 16 bits";

    /** A file with one format and the given bytes of sound. */
    static byte[] file(int kind, int channels, int rate, int bits, byte[] sound) {
        ByteBuffer file = ByteBuffer.allocate(44 + sound.length).order(ByteOrder.LITTLE_ENDIAN);
        file.put(ascii("RIFF")).putInt(36 + sound.length).put(ascii("WAVEfmt ")).putInt(16);
        file.putShort((short) kind).putShort((short) channels).putInt(rate).putInt(rate * channels * bits / 8);
        file.putShort((short) (channels * bits / 8)).putShort((short) bits);
        return file.put(ascii("data")).putInt(sound.length).put(sound).array();
    }

    @Test
    public void readsEveryWidth() throws Exception {
        same(new float[] {-1, 0, 127 / 128f}, read(file(1, 1, 8000, 8, new byte[] {0, (byte) 128, (byte) 255})));
        same(new float[] {0.5f, -1}, read(file(1, 1, 8000, 16, new byte[] {0, 64, 0, -128})));
        same(new float[] {0.5f, -1}, read(file(1, 1, 8000, 24, new byte[] {0, 0, 64, 0, 0, -128})));
        same(new float[] {0.5f, -1}, read(file(1, 1, 8000, 32, new byte[] {0, 0, 0, 64, 0, 0, 0, -128})));
        same(new float[] {0.25f, -2}, read(file(3, 1, 8000, 32, floats(0.25f, -2))));
        byte[] doubles = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putDouble(0.125).array();
        same(new float[] {0.125f}, read(file(3, 1, 8000, 64, doubles)));
        assertEquals(8000, read(file(1, 1, 8000, 8, new byte[1])).sampleRate());
    }

    @Test
    public void averagesChannels() throws Exception {
        same(new float[] {0.25f, 0}, read(file(3, 2, 8000, 32, floats(1, -0.5f, 0.5f, -0.5f))));
    }

    @Test
    public void passesOtherChunksAndTheExtensibleForm() throws Exception {
        byte[] plain = file(1, 1, 8000, 16, new byte[] {0, 64});
        ByteBuffer file = ByteBuffer.allocate(200).order(ByteOrder.LITTLE_ENDIAN);
        file.put(plain, 0, 12).put(ascii("LIST")).putInt(3).put(new byte[4]);  // of an odd size, and padded
        file.put(ascii("fmt ")).putInt(40).putShort((short) 0xfffe).put(plain, 22, 14);
        file.putShort((short) 22).putShort((short) 16).putInt(4).putShort((short) 1).put(new byte[14]).put(plain, 36, 10);
        same(new float[] {0.5f}, read(Arrays.copyOf(file.array(), file.position())));
    }

    @Test
    public void refusesWithValueAndWayOut() {
        byte[] good = file(1, 1, 8000, 16, new byte[] {0, 64, 0, 64});
        refused("This is no WAV file: it does not begin with RIFF … WAVE" + CONVERT, new byte[0]);
        refused("This is no WAV file: it does not begin with RIFF … WAVE" + CONVERT, ascii("ID3 an MP3 file, say"));
        refused("The WAV file ends before its sound; copy or record it again", Arrays.copyOf(good, 40));
        refused("The WAV file ends within its format; copy or record it again", Arrays.copyOf(good, 30));
        refused("The WAV file is cut off: it says 2 samples and holds fewer; copy or record it again",
                Arrays.copyOf(good, good.length - 1));
        refused("The WAV file holds no sound; record it again", file(1, 1, 8000, 16, new byte[0]));
        refused("The WAV file holds no sound; record it again", file(1, 2, 8000, 16, new byte[3]));
        refused("The WAV file is of kind 2 with 4 bits; this app reads PCM (1) and float (3)" + CONVERT,
                file(2, 1, 8000, 4, new byte[8]));
        refused("The WAV file is of kind 1 with 12 bits; this app reads PCM (1) and float (3)" + CONVERT,
                file(1, 1, 8000, 12, new byte[8]));
        refused("The WAV file has 0 channels at 8000 Hz; this app reads 1 to 32 channels at 1000 to 1000000 Hz" + CONVERT,
                file(1, 0, 8000, 16, new byte[8]));
        refused("The WAV file has 1 channels at 4294967295 Hz; this app reads 1 to 32 channels at 1000 to 1000000 Hz"
                + CONVERT, file(1, 1, -1, 16, new byte[8]));
        refused("The WAV file holds samples that are no finite number; record or convert it again",
                file(3, 1, 8000, 32, floats(0, Float.NaN)));
        refused("The WAV file holds samples that are no finite number; record or convert it again",
                file(3, 1, 8000, 32, floats(Float.NEGATIVE_INFINITY)));
        byte[] noFormat = ByteBuffer.allocate(20).put(good, 0, 12).put(good, 36, 8).array();
        refused("The WAV file does not say its format before its sound" + CONVERT, noFormat);
    }

    @Test
    public void aLengthThatNoPhoneHoldsIsRefusedBeforeItIsMade() {
        byte[] huge = file(1, 1, 8000, 16, new byte[8]);
        Arrays.fill(huge, 40, 44, (byte) -1);  // 4 GB, as a recorder writes that was switched off
        refused("The WAV file is 268435 seconds long, this app takes 600; cut it into parts", huge);
    }

    @Test
    public void anotherRateKeepsATone() throws Exception {
        Wave low = new Wave(tone(8000, 440, 8000), 8000);
        Wave high = low.at16k();
        assertEquals(16_000, high.sampleRate());
        float[] wanted = tone(16_000, 440, 16_000);
        assertEquals(wanted.length, high.samples().length);
        for (int i = 200; i < wanted.length - 200; i++) {  // ten crossings of the filter lie outside of the sound
            assertEquals(wanted[i], high.samples()[i], 2e-3);
        }
        assertSame(high, high.at16k());
        assertEquals(160, new Wave(new float[441], 44_100).at16k().samples().length);
    }

    static float[] tone(int length, double hertz, int rate) {
        float[] tone = new float[length];
        for (int i = 0; i < length; i++) {
            tone[i] = (float) (0.5 * Math.sin(2 * Math.PI * hertz * i / rate));
        }
        return tone;
    }

    private static byte[] floats(float... values) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        return bytes.array();
    }

    private static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }

    private static void same(float[] wanted, Wave found) {
        assertArrayEquals(wanted, found.samples(), 0);
    }

    private static Wave read(byte[] file) throws Exception {
        return Wave.read(new ByteArrayInputStream(file) {
            @Override
            public synchronized int read(byte[] into, int at, int count) {  // as streams may: a little at a time
                return super.read(into, at, Math.min(count, 7));
            }
        });
    }

    private static void refused(String message, byte[] file) {
        assertEquals(message, assertThrows(EngineException.class, () -> read(file)).getMessage());
    }
}
