package qexport.app;

import android.content.Context;
import android.content.res.AssetFileDescriptor;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import qexport.core.Bundle;
import qexport.core.BundleCheck;
import qexport.core.BundleException;
import qexport.core.BundleFile;
import qexport.core.EngineException;
import qexport.core.Files;

/** A model's files as runtimes take them: mapped where they lie, in the APK or in a folder, or by their path. */
final class Stored implements Files {
    /** The alignment that a model in ONNX Runtime's format asks of its first byte. */
    private static final int ALIGNMENT = 16;

    private final Context context;
    private final Found found;
    private final Bundle bundle;

    Stored(Context context, Found found) {
        this.context = context;
        this.found = found;
        bundle = found.bundle;
    }

    /** Copies what cannot be used where it lies; false when `progress` ended it early. */
    boolean prepare(BundleCheck.Progress progress) throws IOException, BundleException {
        if (found.folder != null) {
            return true;
        }
        for (BundleFile file : bundle.files()) {
            if (isModel(file.path()) && (bundle.runtime().equals("executorch") || !canMap(file.path()))) {
                try (InputStream in = found.files.open(file.path())) {
                    if (!Unpacked.copy(in, copyOf(file.path()), file, progress)) {
                        return false;
                    }
                }
            }
        }
        return true;
    }

    /** Deletes the copies. */
    void forgetCopies() {
        if (found.folder == null) {
            Unpacked.delete(context, found.id);
        }
    }

    /** What the runtime will read: a copy where there is one. */
    @Override
    public InputStream open(String path) throws IOException {
        File copy = found.folder == null && isModel(path) ? copyOf(path) : null;
        return copy != null && copy.isFile() ? new FileInputStream(copy) : found.files.open(path);
    }

    /** For ONNX Runtime: the file's bytes, outside Java's heap. */
    ByteBuffer map(String path) throws IOException, EngineException {
        File copy = found.folder == null ? copyOf(path) : null;
        if (found.folder == null && !copy.isFile()) {
            try (AssetFileDescriptor asset = context.getAssets().openFd(Library.asset(found.id, path));
                    FileInputStream in = new FileInputStream(asset.getFileDescriptor())) {
                return map(in, path, asset.getStartOffset(), asset.getLength());
            }
        }
        try (FileInputStream in = new FileInputStream(path(path))) {
            return map(in, path, 0, in.getChannel().size());
        }
    }

    /** For ExecuTorch: a path of the file system. */
    String path(String path) {
        return (found.folder == null ? copyOf(path) : new File(found.folder, path)).getPath();
    }

    private static ByteBuffer map(FileInputStream in, String path, long start, long size)
            throws IOException, EngineException {
        if (size > Integer.MAX_VALUE) {
            throw new EngineException(path + " has " + size + " bytes, one mapping holds " + Integer.MAX_VALUE
                    + "; export a smaller model");
        }
        return in.getChannel().map(FileChannel.MapMode.READ_ONLY, start, size);
    }

    /** False for an asset that was compressed, or lies where a runtime may not read it. */
    private boolean canMap(String path) throws IOException {
        try (AssetFileDescriptor asset = context.getAssets().openFd(Library.asset(found.id, path))) {
            return asset.getStartOffset() % ALIGNMENT == 0;
        } catch (FileNotFoundException e) {
            return false;
        }
    }

    private File copyOf(String path) {
        for (BundleFile file : bundle.files()) {
            if (file.path().equals(path)) {
                return Unpacked.place(context, found.id, file);
            }
        }
        throw new IllegalArgumentException(path + " is no file of " + bundle.id());
    }

    private static boolean isModel(String path) {
        return path.endsWith(".ort") || path.endsWith(".onnx") || path.endsWith(".pte");
    }
}
