package qexport.core;

import java.util.Arrays;

/** A growing list of token ids. */
final class Ids {
    private int[] ids = new int[64];
    private int size;

    void add(int id) {
        if (size == ids.length) {
            ids = Arrays.copyOf(ids, 2 * size);
        }
        ids[size++] = id;
    }

    void addAll(int[] more) {
        for (int id : more) {
            add(id);
        }
    }

    void clear() {
        size = 0;
    }

    int size() {
        return size;
    }

    int[] toArray() {
        return Arrays.copyOf(ids, size);
    }

    /** How many of `other`'s first ids are all of these; -1 when these are not its beginning. */
    int beginningOf(int[] other) {
        if (size > other.length) {
            return -1;
        }
        for (int i = 0; i < size; i++) {
            if (ids[i] != other[i]) {
                return -1;
            }
        }
        return size;
    }

    /** The text with each lone surrogate replaced by U+FFFD, which UTF-8 can hold. */
    static String wellFormed(String text) {
        StringBuilder result = null;
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (!Character.isSurrogate(c)) {
                continue;
            }
            if (Character.isHighSurrogate(c) && i + 1 < text.length() && Character.isLowSurrogate(text.charAt(i + 1))) {
                i++;
                continue;
            }
            if (result == null) {
                result = new StringBuilder(text);
            }
            result.setCharAt(i, '\ufffd');
        }
        return result == null ? text : result.toString();
    }
}
