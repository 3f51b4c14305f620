package qexport.app;

import java.io.File;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.BundleFile;
import qexport.core.Files;

/** Copies a bundle's folder into the app: checked, and whole or not at all. */
final class Importer {
    /** What an unfinished copy's folder begins with; no model's name begins with a point. */
    private static final String UNFINISHED = ".import-";
    private static final String OLD = ".old-";
    /** Left free for the rest of the device. */
    private static final long SPARE = 64L << 20;

    private Importer() {
    }

    /** Removes what a process left that was ended while copying; puts back a model whose successor did not come. */
    static void tidy(File models) {
        File[] children = models.listFiles();
        if (children == null) {
            return;
        }
        for (File child : children) {
            if (child.getName().startsWith(UNFINISHED)) {
                Streams.delete(child);
            } else if (child.getName().startsWith(OLD)) {
                File place = new File(models, child.getName().substring(OLD.length()));
                if (place.exists() || !child.renameTo(place)) {
                    Streams.delete(child);
                }
            }
        }
    }

    /**
     * Copies and checks; a model of the same name is replaced at the very end.
     *
     * @param models the folder of imported models
     * @param free bytes free where it lies
     * @param progress hears bytes written, of all; false ends the copy
     * @return the model's id; null: ended early, nothing changed
     */
    static String run(Files source, File models, long free, BundleCheck.Progress progress)
            throws BundleException, IOException {
        String json = json(source);
        Bundle bundle = Bundle.parse(json);
        long size = Entry.size(bundle);
        if (size + SPARE > free) {
            throw new BundleException(bundle.title() + " takes " + megabytes(size) + " MB and "
                    + megabytes(SPARE) + " MB must stay free, " + megabytes(free)
                    + " MB are; delete something and import it again");
        }
        tidy(models);
        File copy = new File(models, UNFINISHED + bundle.id());
        boolean done = false;
        try {
            // copying and reading again are each half of the way
            done = copy(source, bundle, copy, (at, all) -> progress.at(at, 2 * all))
                    && BundleCheck.verify(bundle, Streams.folder(copy), (at, all) -> progress.at(all + at, 2 * all));
            if (done) {
                write(new File(copy, "bundle.json"), json);
                replace(copy, new File(models, bundle.id()), new File(models, OLD + bundle.id()));
            }
        } finally {
            if (!done || copy.exists()) {
                Streams.delete(copy);
            }
        }
        return done ? bundle.id() : null;
    }

    private static String json(Files source) throws BundleException, IOException {
        try (InputStream in = source.open("bundle.json")) {
            return new String(Streams.all(in, 16 << 20), StandardCharsets.UTF_8);
        } catch (FileNotFoundException e) {
            throw new BundleException("The folder holds no bundle.json; choose one that `qexport bundle` wrote", e);
        }
    }

    private static boolean copy(Files source, Bundle bundle, File folder, BundleCheck.Progress progress)
            throws BundleException, IOException {
        long all = Entry.size(bundle);
        long before = 0;
        for (BundleFile file : bundle.files()) {
            File place = new File(folder, file.path());
            File parent = place.getParentFile();
            if (!parent.isDirectory() && !parent.mkdirs()) {
                throw new IOException(parent + " cannot be made");
            }
            try (InputStream in = source.open(file.path()); FileOutputStream out = new FileOutputStream(place)) {
                if (!copy(in, out, file, before, all, progress)) {
                    return false;
                }
                out.getFD().sync();
            } catch (FileNotFoundException e) {
                throw new BundleException(bundle.id() + "/" + file.path() + ": missing; choose the whole folder", e);
            }
            before += file.bytes();
        }
        return true;
    }

    /** Never more than listed, so that no file can fill the storage. */
    private static boolean copy(InputStream in, FileOutputStream out, BundleFile file, long before, long all,
            BundleCheck.Progress progress) throws IOException, BundleException {
        byte[] block = new byte[1 << 16];
        long size = 0;
        int count;
        while ((count = in.read(block)) >= 0) {
            size += count;
            if (size > file.bytes()) {
                throw new BundleException(file.path() + ": longer than the " + file.bytes()
                        + " bytes listed; write the folder again with `qexport bundle`");
            }
            out.write(block, 0, count);
            if (!progress.at(before + size, all)) {
                return false;
            }
        }
        return true;
    }

    private static void write(File file, String text) throws IOException {
        try (FileOutputStream out = new FileOutputStream(file)) {
            out.write(text.getBytes(StandardCharsets.UTF_8));
            out.getFD().sync();
        }
    }

    private static void replace(File copy, File place, File old) throws IOException {
        if (place.exists() && !place.renameTo(old)) {
            throw new IOException(place + " cannot be replaced");
        }
        if (!copy.renameTo(place)) {
            old.renameTo(place);
            throw new IOException(copy + " cannot be renamed");
        }
        Streams.delete(old);
    }

    private static long megabytes(long bytes) {
        return (bytes + 999_999) / 1_000_000;
    }
}
