package qexport.app;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import qexport.core.EnergyPolicy;

public class SmallPartsTest {
    @Rule
    public TemporaryFolder folder = new TemporaryFolder();

    @Test
    public void listenersHearTheNewestOnce() {
        ArrayDeque<Runnable> main = new ArrayDeque<>();
        State<Integer> state = new State<>(main::add, 0);
        List<Integer> heard = new ArrayList<>();
        State.Listener<Integer> listener = heard::add;
        state.listen(listener);
        state.set(1);
        state.set(2);
        assertEquals(1, main.size());
        main.remove().run();
        state.set(3);
        state.forget(listener);
        main.remove().run();
        assertEquals(List.of(0, 2), heard);
        assertEquals(Integer.valueOf(3), state.get());
    }

    @Test
    public void eachFieldHasItsOwnMessage() {
        assertArrayEquals(new String[5], SettingsForm.problems(SettingsForm.DEFAULTS));
        String[] problems = SettingsForm.problems(new String[] {"NaN", "-1", "", "1.5", "0"});
        assertEquals("Temperature is \"NaN\", not a number; write one like 0.7", problems[0]);
        assertEquals("Top-k is -1; choose 0 (off) or more", problems[1]);
        assertEquals("Top-p is empty; write a number like 0.9", problems[2]);
        assertEquals("Seed is \"1.5\", not a whole number; write one like 1", problems[3]);
        assertEquals("Most new tokens is 0; choose 1 or more", problems[4]);
        assertEquals(0.5f, SettingsForm.parse(new String[] {"0,5", "40", "0.9", "1", "256"}).temperature(), 0);
    }

    @Test
    public void coresOfTheSlowestKindDoNotCount() throws IOException {
        assertEquals(8, FastCores.count(folder.getRoot(), 8));  // a device that does not tell
        long[] frequencies = {1800, 1800, 1800, 1800, 2250, 2250, 2800, 2800};
        for (int i = 0; i < frequencies.length; i++) {
            write("cpu" + i + "/cpufreq/cpuinfo_max_freq", frequencies[i] + "\n");
        }
        assertEquals(4, FastCores.count(folder.getRoot(), 8));
        write("cpu3/cpufreq/cpuinfo_max_freq", "?");
        assertEquals(8, FastCores.count(folder.getRoot(), 8));
    }

    @Test
    public void equalCoresAllCount() throws IOException {
        write("cpu0/cpufreq/cpuinfo_max_freq", "2000");
        write("cpu1/cpufreq/cpuinfo_max_freq", "2000");
        assertEquals(2, FastCores.count(folder.getRoot(), 2));
    }

    @Test
    public void thePolicyIsAskedFromTimeToTime() {
        int[] asked = {0};
        EnergyWatch watch = new EnergyWatch(() -> {
            asked[0]++;
            return EnergyPolicy.off(4);
        });
        watch.at(0);
        watch.at(2_000_000_000L);
        assertEquals(1, asked[0]);
        watch.at(3_000_000_000L);
        assertEquals(2, asked[0]);
    }

    @Test
    public void everyFailureIsASentence() {
        assertEquals("A native library does not load on this device: x; install the build of the app that is for its"
                + " processor", Failures.sentence(new UnsatisfiedLinkError("x")));
        assertTrue(Failures.sentence(new IOException("no space")).startsWith("A file cannot be read or written: no"));
        assertTrue(Failures.sentence(new NullPointerException()).startsWith("The app made a mistake: "));
    }

    @Test
    public void emptyLinesAreNoTexts() {
        assertEquals(List.of("a", "b c"), EncoderWork.lines("\n a \r\n\n  \nb c"));
    }

    private void write(String path, String text) throws IOException {
        File file = new File(folder.getRoot(), path);
        Files.createDirectories(file.toPath().getParent());
        Files.write(file.toPath(), text.getBytes(StandardCharsets.US_ASCII));
    }
}
