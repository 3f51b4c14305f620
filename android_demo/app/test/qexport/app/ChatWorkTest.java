package qexport.app;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.List;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import qexport.core.Chat.Message;
import qexport.core.EnergyPolicy;
import qexport.core.EngineException;
import qexport.core.Settings;
import qexport.core.Statistics;

public class ChatWorkTest {
    @Rule
    public TemporaryFolder folder = new TemporaryFolder();
    private final Worker worker = new Worker("models");
    private final Samples.Script engine = new Samples.Script("Hello");
    private int thermal = 0;
    private final ChatWork chat = new ChatWork(
            worker, Samples.HERE, () -> EnergyPolicy.decide(thermal, 80, false, false, 4), () -> 2048);
    private Model model;
    private File file;

    @Before
    public void open() throws Exception {
        model = Samples.model(engine, Samples.files(Samples.contents()));
        file = new File(folder.getRoot(), "chat.json");
        chat.open(file);
    }

    @Test
    public void answers() throws Exception {
        List<String> seen = new ArrayList<>();
        chat.state.listen(now -> seen.add(now.phase + " " + now.answer));
        assertEquals("user Hi|assistant Hello", send("Hi"));
        ChatWork.Snapshot end = chat.state.get();
        assertEquals(Statistics.End.STOP, end.statistics.end());
        assertEquals(2048, end.memory);
        assertNull(end.problem);
        assertNull(end.returned);
        assertTrue(seen.toString(), seen.contains("READING ") && seen.contains("ANSWERING Hel"));
        assertEquals("user Hi|assistant Hello|user Ho|assistant Hello", send("Ho"));
        assertEquals(4, new Conversation(file).messages().size());
    }

    @Test
    public void stopKeepsWhatThereIs() throws Exception {
        engine.before = () -> {
            if (chat.state.get().answer.equals("Hel")) {
                chat.stop();
            }
        };
        assertEquals("user Hi|assistant Hell", send("Hi"));
        assertEquals(Statistics.End.CANCELLED, chat.state.get().statistics.end());
        assertEquals("Hell", new Conversation(file).messages().get(1).content());
    }

    @Test
    public void stopBeforeTheFirstTokenGivesTheTextBack() throws Exception {
        engine.before = chat::stop;  // interrupts the engine, which throws
        assertEquals("", send("Hi"));
        assertEquals("The answer was stopped", chat.state.get().problem);
        assertEquals("Hi", chat.state.get().returned);
        chat.took();
        assertNull(chat.state.get().returned);
        assertTrue(new Conversation(file).messages().isEmpty());
    }

    @Test
    public void stopAllReachesAnAnswerThatWaits() throws Exception {
        worker.run(() -> {
            chat.send(model, "Hi", Settings.greedy(20));
            worker.stopAll();
        });
        Samples.await(worker);
        Samples.await(worker);
        assertEquals("Hi", chat.state.get().returned);
        assertFalse(worker.busy());
    }

    @Test
    public void aFailureIsASentenceAndLosesNothing() throws Exception {
        engine.problem = new EngineException("ONNX Runtime stopped");
        assertEquals("", send("Hi"));
        assertEquals("ONNX Runtime stopped", chat.state.get().problem);
        assertEquals("Hi", chat.state.get().returned);
        engine.problem = null;
        engine.before = () -> {
            throw new OutOfMemoryError();
        };
        send("Hi");
        assertEquals("Memory ran out; close other apps or choose a smaller model", chat.state.get().problem);
        assertEquals("", send("x".repeat(100)));
        assertTrue(chat.state.get().problem.startsWith("The conversation is 105 tokens long, the model holds 64"));
    }

    @Test
    public void aHotDeviceDoesNotBegin() throws Exception {
        thermal = 3;
        assertEquals("", send("Hi"));
        assertEquals("The device is too hot; let it cool down", chat.state.get().problem);
        assertEquals("Hi", chat.state.get().returned);
    }

    @Test
    public void clearForgets() throws Exception {
        send("Hi");
        chat.clear(model);
        Samples.await(worker);
        assertTrue(chat.state.get().messages.isEmpty());
        assertTrue(new Conversation(file).messages().isEmpty());
        assertEquals("user Hi|assistant Hello", send("Hi"));
    }

    @Test
    public void anotherProcessGoesOn() throws Exception {
        send("Hi");
        ChatWork next = new ChatWork(worker, Samples.HERE, () -> EnergyPolicy.off(4), () -> 0);
        next.open(file);
        Samples.await(worker);
        assertEquals(2, next.state.get().messages.size());
    }

    @Test
    public void holdsNoModelBehindAnAnswer() throws Exception {
        send("Hi");
        WeakReference<Model> held = new WeakReference<>(model);
        model = null;
        assertTrue(Samples.forgotten(held));
    }

    private String send(String text) throws Exception {
        chat.send(model, text, Settings.greedy(20));
        Samples.await(worker);
        StringBuilder said = new StringBuilder();
        for (Message message : chat.state.get().messages) {
            said.append(said.length() == 0 ? "" : "|").append(message.role()).append(' ').append(message.content());
        }
        return said.toString();
    }
}
