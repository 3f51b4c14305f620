package qexport.app;

import android.content.Context;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Set;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.BundleFile;

/** Copies of assets for a runtime that needs a plain file: made once, and removed with the asset. */
final class Unpacked {
    private Unpacked() {
    }

    private static File root(Context context) {
        return new File(context.getNoBackupFilesDir(), "unpacked");
    }

    /** Where the copy of such a file lies or would lie: another content has another name. */
    static File place(Context context, String id, BundleFile file) {
        String name = file.sha256().substring(0, 16) + "-" + file.path().replace('/', '_');
        return new File(new File(root(context), id), name);
    }

    /**
     * Copies unless it is there; its sha256 is the caller's to check, on the copy.
     *
     * @return false when `progress` ended it early
     */
    static boolean copy(InputStream in, File place, BundleFile file, BundleCheck.Progress progress)
            throws IOException, BundleException {
        if (place.length() == file.bytes()) {
            return true;
        }
        File folder = place.getParentFile();
        Streams.delete(folder);  // what another content of the model left
        if (!folder.mkdirs()) {
            throw new IOException(folder + " cannot be made");
        }
        if (folder.getUsableSpace() < file.bytes()) {
            throw new BundleException(file.path() + " has to be copied, which takes " + file.bytes() / 1_000_000
                    + " MB of storage, " + folder.getUsableSpace() / 1_000_000 + " MB are free; delete something");
        }
        File next = new File(place.getPath() + ".new");
        try (FileOutputStream out = new FileOutputStream(next)) {
            byte[] block = new byte[1 << 16];
            long size = 0;
            int count;
            while ((count = in.read(block)) >= 0) {
                out.write(block, 0, count);
                size += count;
                if (!progress.at(size, file.bytes())) {
                    return false;
                }
            }
            out.getFD().sync();
        }
        if (!next.renameTo(place)) {
            throw new IOException(next + " cannot be renamed");
        }
        return true;
    }

    /** Removes a model's copies. */
    static void delete(Context context, String id) {
        Streams.delete(new File(root(context), id));
    }

    /** Removes the copies of models that the app no longer has. */
    static void tidy(Context context, Set<String> ids) {
        File[] folders = root(context).listFiles();
        for (File folder : folders == null ? new File[0] : folders) {
            if (!ids.contains(folder.getName())) {
                Streams.delete(folder);
            }
        }
    }
}
