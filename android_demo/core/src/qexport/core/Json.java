package qexport.core;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A strict JSON reader (RFC 8259): no comments, no trailing commas, no key twice. */
public final class Json {
    private static final int MAX_DEPTH = 200;

    private final String text;
    private final Map<String, String> strings = new HashMap<>();
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /**
     * Reads one value: Map (in the text's order), List, String, Long, Double, Boolean or null.
     * A number without fraction and exponent is a Long; one beyond a Long is refused.
     */
    public static Object parse(String text) throws JsonException {
        Json json = new Json(text);
        json.space();
        Object value = json.value(0);
        json.space();
        if (json.at < text.length()) {
            throw json.wrong("text after the value");
        }
        return value;
    }

    private Object value(int depth) throws JsonException {
        if (depth > MAX_DEPTH) {
            throw wrong("nested deeper than " + MAX_DEPTH);
        }
        if (at >= text.length()) {
            throw wrong("the text ends where a value should be");
        }
        char c = text.charAt(at);
        switch (c) {
            case '{':
                return object(depth);
            case '[':
                return array(depth);
            case '"':
                return string();
            case 't':
                return word("true", Boolean.TRUE);
            case 'f':
                return word("false", Boolean.FALSE);
            case 'n':
                return word("null", null);
            default:
                if (c == '-' || digit(c)) {
                    return number();
                }
                throw wrong("a value cannot start with " + shown(c));
        }
    }

    private Map<String, Object> object(int depth) throws JsonException {
        Map<String, Object> result = new LinkedHashMap<>();
        at++;
        space();
        if (take('}')) {
            return result;
        }
        do {
            space();
            if (at >= text.length() || text.charAt(at) != '"') {
                throw wrong("a key in double quotes should be here");
            }
            String key = string();
            space();
            expect(':');
            space();
            if (result.containsKey(key)) {
                throw wrong("key \"" + key + "\" is there twice");
            }
            result.put(key, value(depth + 1));
            space();
        } while (take(','));
        expect('}');
        return result;
    }

    private List<Object> array(int depth) throws JsonException {
        List<Object> result = new ArrayList<>(2);  // a tokenizer holds half a million pairs
        at++;
        space();
        if (take(']')) {
            return result;
        }
        do {
            space();
            result.add(value(depth + 1));
            space();
        } while (take(','));
        expect(']');
        return result;
    }

    private String string() throws JsonException {
        int start = ++at;
        while (at < text.length() && text.charAt(at) >= ' ' && text.charAt(at) != '"' && text.charAt(at) != '\\') {
            at++;
        }
        if (take('"')) {
            return same(text.substring(start, at - 1));  // nothing escaped
        }
        StringBuilder result = new StringBuilder(text.substring(start, at));
        while (at < text.length()) {
            char c = text.charAt(at++);
            if (c == '"') {
                return same(result.toString());
            }
            if (c < ' ') {
                at--;
                throw wrong("control character " + shown(c) + " in a string; it has to be escaped");
            }
            result.append(c == '\\' ? escaped() : c);
        }
        throw wrong("the text ends inside a string");
    }

    /** Equal strings are one object: a tokenizer names each token several times. */
    private String same(String string) {
        String known = strings.get(string);
        if (known == null) {
            strings.put(string, string);
        }
        return known == null ? string : known;
    }

    private char escaped() throws JsonException {
        char c = at < text.length() ? text.charAt(at++) : 0;
        switch (c) {
            case '"':
            case '\\':
            case '/':
                return c;
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                return hex();
            default:
                at--;
                throw wrong("unknown escape \\" + shown(c));
        }
    }

    private char hex() throws JsonException {
        int code = 0;
        for (int i = 0; i < 4; i++) {
            char c = at < text.length() ? text.charAt(at) : 0;
            int digit = c < 128 ? Character.digit(c, 16) : -1;
            if (digit < 0) {
                throw wrong("\\u needs four hex digits");
            }
            code = code * 16 + digit;
            at++;
        }
        return (char) code;
    }

    private Object number() throws JsonException {
        int start = at;
        take('-');
        if (!take('0')) {
            digits();
        }
        boolean whole = true;
        if (take('.')) {
            whole = false;
            digits();
        }
        if (take('e') || take('E')) {
            whole = false;
            if (!take('+')) {
                take('-');
            }
            digits();
        }
        String number = text.substring(start, at);
        try {
            if (whole) {
                return Long.valueOf(number);
            }
        } catch (NumberFormatException e) {
            throw wrong("number " + number + " is beyond 64 bits");
        }
        double value = Double.parseDouble(number);
        if (Double.isInfinite(value)) {
            throw wrong("number " + number + " is beyond a double");
        }
        return value;
    }

    private void digits() throws JsonException {
        int start = at;
        while (at < text.length() && digit(text.charAt(at))) {
            at++;
        }
        if (at == start) {
            throw wrong("a digit should be here");
        }
    }

    private Object word(String word, Object value) throws JsonException {
        if (!text.startsWith(word, at)) {
            throw wrong("only true, false and null can stand without quotes");
        }
        at += word.length();
        return value;
    }

    private void space() {
        while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private boolean take(char c) {
        if (at < text.length() && text.charAt(at) == c) {
            at++;
            return true;
        }
        return false;
    }

    private void expect(char c) throws JsonException {
        if (!take(c)) {
            throw wrong("'" + c + "' should be here" + (at >= text.length() ? ", but the text ends" : ""));
        }
    }

    private static boolean digit(char c) {
        return c >= '0' && c <= '9';
    }

    private static String shown(char c) {
        return c > ' ' && c < 127 ? "'" + c + "'" : String.format("U+%04X", (int) c);
    }

    private JsonException wrong(String what) {
        int line = 1;
        int column = 1;
        for (int i = 0; i < at && i < text.length(); i++) {
            column++;
            if (text.charAt(i) == '\n') {
                line++;
                column = 1;
            }
        }
        return new JsonException("line " + line + ", column " + column + ": " + what);
    }
}
