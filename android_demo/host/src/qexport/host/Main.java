package qexport.host;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;
import qexport.core.BundleException;
import qexport.core.EngineException;

/**
 * The app's classes on a JVM.
 *
 * <p>`chat BUNDLE STEPS THREADS` answers each line of standard input greedily and prints the ids of prompt and answer
 * as JSON; `encode BUNDLE THREADS` prints each line's vector, or its labels; `transcribe BUNDLE FILE.wav THREADS`
 * prints what is said, `features BUNDLE FILE.wav THREADS` what the model hears (float32, bins × frames); `replay
 * BUNDLE THREADS` repeats the golden examples and fails where they differ.
 */
public final class Main {
    private Main() {
    }

    /** 0: good, 1: the golden examples differ, 2: a message on standard error. */
    public static void main(String[] arguments) {
        try {
            PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
            Opened opened = new Opened(Paths.get(arguments[1]),
                    Integer.parseInt(arguments[arguments.length - 1]));
            boolean good = true;
            switch (arguments[0]) {
                case "chat":
                    Chatting.run(opened, Integer.parseInt(arguments[2]), lines(), out);
                    break;
                case "encode":
                    Encoding.run(opened, lines(), out);
                    break;
                case "transcribe":
                    Transcribing.run(opened, Paths.get(arguments[2]), out);
                    break;
                case "features":
                    Transcribing.features(opened, Paths.get(arguments[2]), System.out);
                    break;
                case "replay":
                    good = Replaying.run(opened, out);
                    break;
                default:
                    throw new BundleException(arguments[0] + ": is no command; there are chat, encode, transcribe, "
                            + "features and replay");
            }
            System.exit(good ? 0 : 1);
        } catch (IOException | BundleException | EngineException problem) {
            System.err.println(problem.getMessage());
            System.exit(2);
        }
    }

    /** A string of JSON. */
    static String quoted(String text) {
        StringBuilder result = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                result.append('\\').append(c);
            } else if (c < ' ') {
                result.append(String.format("\\u%04x", (int) c));
            } else {
                result.append(c);
            }
        }
        return result.append('"').toString();
    }

    private static BufferedReader lines() {
        return new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    }
}
