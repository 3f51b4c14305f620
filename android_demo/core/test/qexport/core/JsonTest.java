package qexport.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertThrows;

import java.util.Arrays;
import java.util.Map;
import org.junit.Test;

public class JsonTest {
    @Test
    public void readsEveryKind() throws JsonException {
        Map<?, ?> map = (Map<?, ?>) Json.parse(" {\"a\": [1, -2.5, 1e3, true, false, null], \"\\u00e9\\n\": \"x\\\\\\/\"} ");
        assertEquals(Arrays.asList(1L, -2.5, 1000.0, true, false, null), map.get("a"));
        assertEquals("x\\/", map.get("é\n"));
        assertEquals("\ud83d\udca1", Json.parse("\"\\ud83d\\udca1\""));
        assertEquals(Long.MIN_VALUE, Json.parse("-9223372036854775808"));
        assertNull(Json.parse("null"));
        assertEquals("[a, b]", ((Map<?, ?>) Json.parse("{\"a\":1,\"b\":2}")).keySet().toString());
    }

    @Test
    public void saysWhereAndWhat() {
        refused("", "line 1, column 1: the text ends where a value should be");
        refused("[1,\n 2,]", "line 2, column 4: a value cannot start with ']'");
        refused("{\"a\":1,}", "line 1, column 8: a key in double quotes should be here");
        refused("{\"a\":1,\"a\":2}", "line 1, column 12: key \"a\" is there twice");
        refused("{\"a\" 1}", "line 1, column 6: ':' should be here");
        refused("[1 2]", "line 1, column 4: ']' should be here");
        refused("[1", "line 1, column 3: ']' should be here, but the text ends");
        refused("1 x", "line 1, column 3: text after the value");
        refused("nul", "line 1, column 1: only true, false and null can stand without quotes");
        refused("-", "line 1, column 2: a digit should be here");
        refused("01", "line 1, column 2: text after the value");
        refused("1.", "line 1, column 3: a digit should be here");
        refused("9223372036854775808", "line 1, column 20: number 9223372036854775808 is beyond 64 bits");
        refused("1e999", "line 1, column 6: number 1e999 is beyond a double");
        refused("\"a", "line 1, column 3: the text ends inside a string");
        refused("\"\\x\"", "line 1, column 3: unknown escape \\'x'");
        refused("\"\\u12\"", "line 1, column 6: \\u needs four hex digits");
        refused("\"a\tb\\n\"", "line 1, column 3: control character U+0009 in a string; it has to be escaped");
        refused("NaN", "line 1, column 1: a value cannot start with 'N'");
        refused("[".repeat(300), "line 1, column 202: nested deeper than 200");
    }

    private static void refused(String text, String message) {
        assertEquals(message, assertThrows(JsonException.class, () -> Json.parse(text)).getMessage());
    }
}
