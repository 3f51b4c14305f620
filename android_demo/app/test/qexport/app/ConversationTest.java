package qexport.app;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class ConversationTest {
    @Rule
    public TemporaryFolder folder = new TemporaryFolder();
    private File file;

    @Before
    public void file() {
        file = new File(folder.getRoot(), "conversations/+g.json");
    }

    @Test
    public void comesBackAsItWas() throws Exception {
        String[] texts = {"Hi \"you\"\\\n\t\u0001", "سلام 😀", "half a pair: \ud83d", ""};
        Conversation first = new Conversation(file);
        for (int i = 0; i < texts.length; i++) {
            first.add(i % 2 == 0 ? "user" : "assistant", texts[i]);
        }
        first.save("");
        Conversation second = new Conversation(file);
        assertEquals(texts.length, second.messages().size());
        for (int i = 0; i < texts.length; i++) {
            assertEquals(texts[i], second.messages().get(i).content());
            assertEquals(i % 2 == 0 ? "user" : "assistant", second.messages().get(i).role());
        }
        assertEquals(1, file.getParentFile().list().length);
    }

    @Test
    public void anUnfinishedAnswerIsKept() throws Exception {
        Conversation first = new Conversation(file);
        first.add("user", "Hi");
        first.save("Hel");
        assertEquals(1, first.messages().size());
        assertEquals("Hel", new Conversation(file).messages().get(1).content());
        first.clear();
        assertTrue(new Conversation(file).messages().isEmpty());
    }

    @Test
    public void aBrokenFileIsAnEmptyConversation() throws Exception {
        assertTrue(file.getParentFile().mkdirs());
        for (String text : new String[] {"", "[", "{}", "[1]", "[{}]", "[{\"role\": \"system\", \"content\": \"x\"}]",
            "[{\"role\": \"user\", \"content\": 3}]", "[{\"role\": \"user\", \"content\": null}]"}) {
            Files.write(file.toPath(), text.getBytes(StandardCharsets.UTF_8));
            assertTrue(text, new Conversation(file).messages().isEmpty());
        }
    }
}
