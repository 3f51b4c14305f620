package qexport.app;

import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import qexport.core.Chat.Message;
import qexport.core.Json;
import qexport.core.JsonException;

/** A conversation as text, kept in a file: it outlives the page, the model and the process. */
final class Conversation {
    private final File file;
    private final List<Message> messages = new ArrayList<>();

    /** Reads what the file holds; a file that cannot be read is an empty conversation. */
    Conversation(File file) {
        this.file = file;
        if (file.isFile()) {
            try {
                messages.addAll(parse(new String(bytes(file), StandardCharsets.UTF_8)));
            } catch (IOException | JsonException | ClassCastException e) {
                messages.clear();  // it is only text, and the next message replaces it
            }
        }
    }

    synchronized List<Message> messages() {
        return Collections.unmodifiableList(new ArrayList<>(messages));
    }

    synchronized void add(String role, String content) {
        messages.add(new Message(role, content));
    }

    /** Takes back the newest message. */
    synchronized void removeLast() {
        messages.remove(messages.size() - 1);
    }

    synchronized void clear() throws IOException {
        messages.clear();
        save("");
    }

    /** Writes it, with an answer that is not finished (empty: none); the old file stays until the new one is whole. */
    synchronized void save(String unfinished) throws IOException {
        List<Message> all = new ArrayList<>(messages);
        if (!unfinished.isEmpty()) {
            all.add(new Message("assistant", unfinished));
        }
        File next = new File(file.getPath() + ".new");
        File folder = file.getParentFile();
        if (!folder.isDirectory() && !folder.mkdirs()) {
            throw new IOException(folder + " cannot be made");
        }
        try (FileOutputStream out = new FileOutputStream(next)) {
            out.write(text(all).getBytes(StandardCharsets.UTF_8));
            out.getFD().sync();
        }
        if (!next.renameTo(file)) {
            throw new IOException(file + " cannot be replaced");
        }
    }

    static String text(List<Message> messages) {
        StringBuilder json = new StringBuilder("[");
        for (Message message : messages) {
            json.append(json.length() == 1 ? "" : ",\n").append("{\"role\": ").append(quoted(message.role()))
                    .append(", \"content\": ").append(quoted(message.content())).append('}');
        }
        return json.append("]\n").toString();
    }

    static List<Message> parse(String json) throws JsonException {
        List<Message> result = new ArrayList<>();
        for (Object item : (List<?>) Json.parse(json)) {
            Map<?, ?> message = (Map<?, ?>) item;
            String role = (String) message.get("role");
            String content = (String) message.get("content");
            if (content == null || !"user".equals(role) && !"assistant".equals(role)) {
                throw new ClassCastException("no message");
            }
            result.add(new Message(role, content));
        }
        return result;
    }

    private static String quoted(String text) {
        StringBuilder result = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                result.append('\\').append(c);
            } else if (c < ' ' || Character.isSurrogate(c)) {  // half a pair would not outlive UTF-8
                result.append(String.format("\\u%04x", (int) c));
            } else {
                result.append(c);
            }
        }
        return result.append('"').toString();
    }

    private static byte[] bytes(File file) throws IOException {
        try (InputStream in = new FileInputStream(file)) {
            return Streams.all(in, 64 << 20);
        }
    }
}
