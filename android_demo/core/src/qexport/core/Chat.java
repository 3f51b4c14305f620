package qexport.core;

import java.util.BitSet;
import java.util.List;

/** Writes a conversation as the token ids that the model was trained on. */
public final class Chat {
    /** One message. */
    public static final class Message {
        private final String role;
        private final String content;

        /** `role`: system, user or assistant. */
        public Message(String role, String content) {
            this.role = role;
            this.content = content;
        }

        /** system, user or assistant. */
        public String role() {
            return role;
        }

        /** What was said. */
        public String content() {
            return content;
        }
    }

    private final TextModel model;
    private final Tokenizer tokenizer;

    /** For the model's own format and tokenizer. */
    public Chat(TextModel model, Tokenizer tokenizer) {
        this.model = model;
        this.tokenizer = tokenizer;
    }

    /**
     * The ids of the conversation, ending where the model is to answer. Without a chat format: of the last message
     * alone, which the model continues. Names of special tokens that a person typed stay plain text.
     *
     * @throws EngineException when it leaves no room for an answer
     */
    public int[] encode(List<Message> history) throws EngineException {
        if (history.isEmpty()) {
            throw new EngineException("There is no message to answer; write one");
        }
        BitSet typed = new BitSet();
        String text;
        if (model.chat() == null) {
            text = history.get(history.size() - 1).content();
            typed.set(0, text.length());
        } else {
            text = write(model.chat(), history, typed);
        }
        int[] ids = begun(tokenizer.encode(text, typed));
        if (ids.length >= model.context()) {
            throw new EngineException("The conversation is " + ids.length + " tokens long, the model holds "
                    + model.context() + " with its answer; begin a new conversation or shorten the message");
        }
        for (int id : ids) {
            if (id >= model.vocab()) {
                throw new EngineException("The tokenizer gives token " + id + ", the model has " + model.vocab()
                        + "; the two do not belong together: write the folder again with `qexport bundle`");
            }
        }
        return ids;
    }

    private static String write(ChatFormat format, List<Message> history, BitSet typed) throws EngineException {
        StringBuilder text = new StringBuilder(format.begin());
        if (format.defaultSystem() != null && !history.get(0).role().equals("system")) {
            text.append(format.before("system")).append(format.defaultSystem()).append(format.after("system"));
        }
        for (int i = 0; i < history.size(); i++) {
            Message message = history.get(i);
            String role = message.role();
            if (format.before(role) == null) {
                throw new EngineException("Message " + (i + 1) + " is of role " + role
                        + ", which this model's chat format does not have; leave it out");
            }
            if (role.equals("system") && i > 0) {
                throw new EngineException("Message " + (i + 1) + " is of role system; only the first can be");
            }
            text.append(format.before(role));
            int from = text.length();
            text.append(format.trim() ? stripped(message.content()) : message.content());
            typed.set(from, text.length());
            text.append(format.after(role));
        }
        return text.append(format.generation()).toString();
    }

    private int[] begun(int[] ids) {
        if (!model.addBos() || ids.length > 0 && ids[0] == model.bosId()) {
            return ids;
        }
        int[] result = new int[ids.length + 1];
        result[0] = model.bosId();
        System.arraycopy(ids, 0, result, 1, ids.length);
        return result;
    }

    /** As Python's str.strip does. */
    private static String stripped(String text) {
        int begin = 0;
        int end = text.length();
        while (begin < end && space(text.charAt(begin))) {
            begin++;
        }
        while (end > begin && space(text.charAt(end - 1))) {
            end--;
        }
        return text.substring(begin, end);
    }

    private static boolean space(char c) {
        return Character.isWhitespace(c) || Character.isSpaceChar(c) || c == 0x85;
    }
}
