package qexport.app;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import qexport.core.Files;

/** Small reads and folders. */
final class Streams {
    private Streams() {
    }

    /** Everything, where that is at most so many bytes. */
    static byte[] all(InputStream in, int most) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        byte[] block = new byte[1 << 16];
        int count;
        while ((count = in.read(block)) >= 0) {
            out.write(block, 0, count);
            if (out.size() > most) {
                throw new IOException("more than " + most + " bytes, which no such file has");
            }
        }
        return out.toByteArray();
    }

    /** A text file of a model's folder. */
    static String text(Files files, String path) throws IOException {
        try (InputStream in = files.open(path)) {
            return new String(all(in, 256 << 20), StandardCharsets.UTF_8);
        } catch (IOException e) {
            throw new IOException(path + ": " + e.getMessage(), e);
        }
    }

    /** The files of a folder. */
    static Files folder(File folder) {
        return path -> new FileInputStream(new File(folder, path));
    }

    /** Deletes a file or a folder with all that is in it. */
    static void delete(File file) {
        File[] children = file.listFiles();
        if (children != null) {
            for (File child : children) {
                delete(child);
            }
        }
        file.delete();
    }
}
