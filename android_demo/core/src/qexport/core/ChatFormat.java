package qexport.core;

import java.util.List;

/** How a conversation becomes the text that the model was trained on: what stands before and after each message. */
public final class ChatFormat {
    private final String begin;
    private final String defaultSystem;
    private final String[] system;
    private final String[] user;
    private final String[] assistant;
    private final String generation;
    private final boolean trim;

    private ChatFormat(Fields chat) throws BundleException {
        for (Object key : chat.map().keySet()) {
            if (!KEYS.contains(key)) {  // it would change every prompt, so it cannot be passed over
                throw chat.wrong(String.valueOf(key), "is not known to this app");
            }
        }
        begin = chat.string("begin");
        defaultSystem = chat.has("default_system") ? chat.string("default_system") : null;
        system = around(chat, "system");
        user = around(chat, "user");
        assistant = around(chat, "assistant");
        generation = chat.string("generation");
        trim = chat.has("trim") && chat.bool("trim");
    }

    private static final List<String> KEYS = java.util.Arrays.asList(
            "begin", "default_system", "system", "user", "assistant", "generation", "trim");

    static ChatFormat of(Fields chat) throws BundleException {
        return new ChatFormat(chat);
    }

    private static String[] around(Fields chat, String role) throws BundleException {
        if (role.equals("system") && !chat.has(role)) {
            return null;  // the template takes no system message
        }
        List<String> pair = chat.strings(role);
        if (pair.size() != 2) {
            throw chat.wrong(role, "holds " + pair.size() + " strings, not 2 (before and after the message)");
        }
        return pair.toArray(new String[0]);
    }

    /** What the whole text begins with. */
    public String begin() {
        return begin;
    }

    /** The system message of a conversation that has none of its own; null: none. */
    public String defaultSystem() {
        return defaultSystem;
    }

    /** What stands before a message of `role` (system, user or assistant); null: no such role here. */
    public String before(String role) {
        String[] around = around(role);
        return around == null ? null : around[0];
    }

    /** What stands after a message of `role`; null: no such role here. */
    public String after(String role) {
        String[] around = around(role);
        return around == null ? null : around[1];
    }

    /** What makes the model answer. */
    public String generation() {
        return generation;
    }

    /** True when messages lose the white space around them. */
    public boolean trim() {
        return trim;
    }

    private String[] around(String role) {
        switch (role) {
            case "system":
                return system;
            case "user":
                return user;
            case "assistant":
                return assistant;
            default:
                return null;
        }
    }
}
