package qexport.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.junit.Test;

public class ChatTest {
    @Test
    public void writesTheFormat() throws Exception {
        assertEquals("S:Be kind;U:Hi;A:", text(Samples.bundle(), "user", "Hi"));
        assertEquals("S:No;U:Hi;A:Yo;U:More;A:", text(Samples.bundle(), "system", "No", "user", "Hi", "assistant",
                "Yo", "user", "More"));
        assertEquals("U: Hi ;A:", text(Samples.bundle("'Be kind'", "null"), "user", " Hi "));
        assertEquals("U:Hi;A:", text(Samples.bundle("'begin':'','default_system':'Be kind'",
                "'begin':'','default_system':null,'trim':true"), "user", "\u3000 Hi\n"));
    }

    @Test
    public void withoutAFormatContinuesTheLastMessage() throws Exception {
        assertEquals("Once", text(without(), "user", "x", "user", "Once"));
    }

    @Test
    public void putsTheBeginningTokenOnce() throws Exception {
        Bundle bundle = Samples.bundle("'bos_id':null,'add_bos':false", "'bos_id':85,'add_bos':true");  // 'U'
        assertEquals("US:Be kind;U:Hi;A:", text(bundle, "user", "Hi"));
        Bundle begun = Bundle.parse(Samples.json(Samples.BUNDLE.replace("'Be kind'", "null")
                .replace("'bos_id':null,'add_bos':false", "'bos_id':85,'add_bos':true")));
        assertEquals("U:Hi;A:", text(begun, "user", "Hi"));
    }

    @Test
    public void refusesWithNumbersAndWayOut() throws Exception {
        Bundle bundle = Samples.bundle();
        assertEquals("The conversation is 76 tokens long, the model holds 64 with its answer; begin a new conversation "
                + "or shorten the message", refused(bundle, "user", "x".repeat(61)));
        assertEquals("Message 1 is of role tool, which this model's chat format does not have; leave it out",
                refused(bundle, "tool", "x"));
        assertEquals("Message 2 is of role system; only the first can be", refused(bundle, "user", "a", "system", "b"));
        assertEquals("There is no message to answer; write one", refused(bundle));
        assertEquals("The tokenizer gives token 101, the model has 100; the two do not belong together: write the folder "
                + "again with `qexport bundle`", refused(Samples.bundle("'vocab':256", "'vocab':100"), "user", "i"));
        Chat chat = new Chat(bundle.text(), new Samples.Bytes());
        int fits = 63 - "S:Be kind;U:;A:".length();
        assertEquals(63, chat.encode(Collections.singletonList(new Chat.Message("user", "x".repeat(fits)))).length);
    }

    @Test
    public void typedSpecialTokensStayText() throws Exception {
        Tokenizer tokenizer = Tokenizers.parse(Samples.read(Samples.folder().resolve("bpe.json")));
        Bundle bundle = Bundle.parse(Samples.json(Samples.BUNDLE.replace("'Be kind'", "null")
                .replace("'vocab':256", "'vocab':512").replace("['U:',';']", "['<|im_start|>','<|im_end|>']").replace("'generation':'A:'", "'generation':''")));
        int[] ids = new Chat(bundle.text(), tokenizer)
                .encode(Collections.singletonList(new Chat.Message("user", "<|im_end|>")));
        assertEquals(1, ids[0]);
        assertEquals(2, ids[ids.length - 1]);
        for (int i = 1; i + 1 < ids.length; i++) {
            assertEquals(false, tokenizer.isSpecial(ids[i]));
        }
        assertArrayEquals(tokenizer.encode("<|im_start|>Hi<|im_end|>"), new Chat(bundle.text(), tokenizer)
                .encode(Collections.singletonList(new Chat.Message("user", "Hi"))));
    }

    private static Bundle without() throws BundleException {
        int chat = Samples.BUNDLE.indexOf("'chat':");
        return Bundle.parse(Samples.json(Samples.BUNDLE.substring(0, chat) + "'chat':null}}"));
    }

    private static List<Chat.Message> history(String... rolesAndContents) {
        List<Chat.Message> history = new ArrayList<>();
        for (int i = 0; i < rolesAndContents.length; i += 2) {
            history.add(new Chat.Message(rolesAndContents[i], rolesAndContents[i + 1]));
        }
        return history;
    }

    private static String text(Bundle bundle, String... history) throws EngineException {
        int[] ids = new Chat(bundle.text(), new Samples.Bytes()).encode(history(history));
        byte[] bytes = new byte[ids.length];
        for (int i = 0; i < ids.length; i++) {
            bytes[i] = (byte) ids[i];
        }
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static String refused(Bundle bundle, String... history) {
        return assertThrows(EngineException.class, () -> text(bundle, history)).getMessage();
    }
}
