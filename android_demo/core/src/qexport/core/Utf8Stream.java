package qexport.core;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;

/** Bytes of UTF-8 to text as they come: a character appears with its last byte, a broken one as U+FFFD. */
public final class Utf8Stream {
    private final CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder()
            .onMalformedInput(CodingErrorAction.REPLACE)
            .onUnmappableCharacter(CodingErrorAction.REPLACE);
    private byte[] rest = {};

    /** The text that is complete with these bytes; may be empty. */
    public String add(byte[] bytes) {
        return decode(bytes, false);
    }

    /** The end: what is left of an unfinished character, as U+FFFD. Then the stream is as new. */
    public String finish() {
        String text = decode(new byte[0], true);
        decoder.reset();
        return text;
    }

    private String decode(byte[] bytes, boolean end) {
        ByteBuffer in = ByteBuffer.allocate(rest.length + bytes.length);
        in.put(rest).put(bytes);
        java.nio.Buffer ready = in;  // as a Buffer: ByteBuffer.flip() is not in Java 8
        ready.flip();
        CharBuffer out = CharBuffer.allocate(in.remaining() + 4);
        decoder.decode(in, out, end);
        if (end) {
            decoder.flush(out);
        }
        rest = new byte[in.remaining()];
        in.get(rest);
        java.nio.Buffer text = out;
        text.flip();
        return out.toString();
    }
}
