package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import org.junit.Test;

public class GenerationTest {
    private static final class Heard implements Generation.Listener {
        final StringBuilder text = new StringBuilder();
        final StringBuilder parts = new StringBuilder();

        @Override
        public void prefilled(int done, int all) {
            parts.append(done).append('/').append(all).append(' ');
        }

        @Override
        public void text(String piece) {
            text.append(piece).append('|');
        }
    }

    private final Heard heard = new Heard();

    @Test
    public void answersUntilTheStopToken() throws Exception {
        Statistics statistics = over(new Samples.Script("Aé\u0001!", 64)).run(ids("Hi"), Settings.greedy(50), heard);
        assertEquals("A|é|!|", heard.text.toString());  // 1 is special and not shown
        assertEquals("2/2 ", heard.parts.toString());
        assertEquals(Statistics.End.STOP, statistics.end());
        assertNull(statistics.end().reason());
        assertEquals(2, statistics.promptTokens());
        assertEquals(2, statistics.fedTokens());
        assertEquals(5, statistics.newTokens());
        assertTrue(statistics.prefillRate() > 0 && statistics.decodeRate() > 0);
        assertTrue(statistics.prefillNanos() > 0 && statistics.decodeNanos() > 0);
    }

    @Test
    public void endsAtTheMostTokens() throws Exception {
        Samples.Script engine = new Samples.Script("abcdef", 64);
        assertEquals(Statistics.End.LENGTH, over(engine).run(ids("Hi"), Settings.greedy(3), heard).end());
        assertEquals("a|b|c|", heard.text.toString());
    }

    @Test
    public void endsWhereTheContextDoes() throws Exception {
        Samples.Script engine = new Samples.Script("abcdef", 4);
        Statistics statistics = over(engine).run(ids("Hi"), Settings.greedy(50), heard);
        assertEquals(Statistics.End.CONTEXT, statistics.end());
        assertEquals("The model holds no more tokens; begin a new conversation", statistics.end().reason());
        assertEquals("a|b|c|", heard.text.toString());
        assertEquals(4, engine.past());
    }

    @Test
    public void anUnfinishedCharacterIsShownAsBroken() throws Exception {
        over(new Samples.Script("aé", 64)).run(ids("Hi"), Settings.greedy(2), heard);
        assertEquals("a|\ufffd|", heard.text.toString());
    }

    @Test
    public void cancelEndsAnAnswer() throws Exception {
        Samples.Script engine = new Samples.Script("abcdef", 64);
        Generation generation = over(engine);
        engine.before = () -> {
            if (engine.fed == 3) {
                generation.cancel();
            }
        };
        Statistics statistics = generation.run(ids("Hi"), Settings.greedy(50), heard);
        assertEquals(Statistics.End.CANCELLED, statistics.end());
        assertEquals("a|b|c|", heard.text.toString());
        engine.before = () -> { };
        assertEquals(Statistics.End.STOP, generation.run(ids("Ho"), Settings.greedy(50), heard).end());
    }

    @Test
    public void cancelEndsALongPrompt() throws Exception {
        Samples.Script engine = new Samples.Script("abc", 1000);
        Generation generation = over(engine);
        engine.before = generation::cancel;
        Statistics statistics = generation.run(ids("x".repeat(600)), Settings.greedy(50), heard);
        assertEquals(Statistics.End.CANCELLED, statistics.end());
        assertEquals("256/600 ", heard.parts.toString());
        assertEquals(0, statistics.newTokens());
        engine.before = () -> { };
        assertEquals(344, generation.run(ids("x".repeat(600)), Settings.greedy(50), heard).fedTokens());
    }

    @Test
    public void restsBetweenTokens() throws Exception {
        Generation generation = over(new Samples.Script("abc", 64));
        generation.pause(30);
        long start = System.nanoTime();
        assertEquals(Statistics.End.STOP, generation.run(ids("Hi"), Settings.greedy(50), heard).end());
        assertTrue(System.nanoTime() - start >= 90_000_000L);
        assertThrows(IllegalArgumentException.class, () -> generation.pause(-1));
    }

    @Test
    public void cancelEndsARest() throws Exception {
        Generation generation = over(new Samples.Script("abc", 64));
        generation.pause(600_000);
        Thread person = new Thread(() -> {
            try {
                Thread.sleep(50);
            } catch (InterruptedException e) {
                return;
            }
            generation.cancel();
        });
        person.start();
        long start = System.nanoTime();
        assertEquals(Statistics.End.CANCELLED, generation.run(ids("Hi"), Settings.greedy(50), heard).end());
        assertTrue(System.nanoTime() - start < 60_000_000_000L);
        assertEquals("a|", heard.text.toString());
        person.join();
    }

    @Test
    public void anInterruptEndsARest() throws Exception {
        Generation generation = over(new Samples.Script("abc", 64));
        generation.pause(600_000);
        Thread.currentThread().interrupt();
        assertEquals(Statistics.End.CANCELLED, generation.run(ids("Hi"), Settings.greedy(50), heard).end());
        assertTrue(Thread.interrupted());
    }

    @Test
    public void whatTheEngineHoldsIsNotFedAgain() throws Exception {
        Samples.Script engine = new Samples.Script("yes", 64);
        Generation generation = over(engine);
        generation.run(ids("Hi"), Settings.greedy(50), heard);
        engine.resets = 0;
        assertEquals(3, generation.run(ids("Hiyes...".substring(0, 8)), Settings.greedy(50), heard).fedTokens());
        assertEquals(0, engine.resets);
        assertEquals(5, generation.run(ids("Hello"), Settings.greedy(50), heard).fedTokens());
        assertEquals(1, engine.resets);
        generation.reset();
        assertEquals(5, generation.run(ids("Hello"), Settings.greedy(1), heard).fedTokens());
        assertEquals(5, generation.run(ids("Hello"), Settings.greedy(1), heard).fedTokens());  // its logits are gone
    }

    @Test
    public void afterAFailureItBeginsAnew() throws Exception {
        Samples.Script engine = new Samples.Script("yes", 64);
        Generation generation = over(engine);
        generation.run(ids("Hi"), Settings.greedy(50), heard);
        engine.broken = true;
        assertThrows(EngineException.class, () -> generation.run(ids("Hiyes more"), Settings.greedy(50), heard));
        engine.broken = false;
        assertEquals(10, generation.run(ids("Hiyes more"), Settings.greedy(50), heard).fedTokens());
    }

    @Test
    public void refusesPromptsThatDoNotFit() throws Exception {
        Generation generation = over(new Samples.Script("yes", 4));
        assertEquals("The prompt has 4 tokens, the engine takes 1 to 3; shorten it",
                assertThrows(EngineException.class,
                        () -> generation.run(ids("long"), Settings.greedy(1), heard)).getMessage());
        assertEquals("The prompt has 0 tokens, the engine takes 1 to 3; write something",
                assertThrows(EngineException.class,
                        () -> generation.run(new int[0], Settings.greedy(1), heard)).getMessage());
    }

    private static Generation over(Engine engine) throws BundleException {
        return new Generation(engine, Samples.bundle().text(), new Samples.Bytes());
    }

    private static int[] ids(String text) {
        return new Samples.Bytes().encode(text);
    }
}
