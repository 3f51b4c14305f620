package qexport.app;

import android.content.Context;
import android.content.res.AssetManager;
import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executor;
import qexport.core.Bundle;
import qexport.core.BundleException;
import qexport.core.Files;

/** The models in the app's assets, and those that were imported. */
final class Library {
    /** How far an import is. */
    static final class Import {
        static final Import NONE = new Import(false, 0, 0, null, null);

        final boolean running;
        final long done;
        final long all;
        /** The imported model's id; null: none. */
        final String id;
        final String problem;

        Import(boolean running, long done, long all, String id, String problem) {
            this.running = running;
            this.done = done;
            this.all = all;
            this.id = id;
            this.problem = problem;
        }
    }

    private static final String ASSETS = "models";
    private static final String NOTICES = "licenses";

    final State<Catalog> catalog;
    final State<Import> importing;
    private final Context context;
    private final Worker worker;
    private final File imported;
    /** Copying is slow and touches no model: nobody has to wait for it, and loading a model does not end it. */
    private final Worker copying = new Worker("import");
    private ImportJob job;

    Library(Context context, Worker worker, Executor main) {
        this.context = context;
        this.worker = worker;
        catalog = new State<>(main, Catalog.EMPTY);
        importing = new State<>(main, Import.NONE);
        imported = new File(context.getFilesDir(), "models");
        worker.run(() -> {
            Importer.tidy(imported);
            read();
        });
    }

    /** Looks again; on the worker. */
    Catalog read() {
        List<Found> all = new ArrayList<>();
        File[] folders = imported.listFiles(File::isDirectory);
        for (File folder : folders == null ? new File[0] : folders) {
            if (!folder.getName().startsWith(".")) {
                all.add(found(folder.getName(), Streams.folder(folder), folder));
            }
        }
        AssetManager assets = context.getAssets();
        Set<String> own = new HashSet<>();
        for (String id : list(assets, ASSETS)) {
            own.add(id);
            all.add(found(id, path -> assets.open(asset(id, path), AssetManager.ACCESS_STREAMING),
                    null));
        }
        Unpacked.tidy(context, own);
        Catalog result = new Catalog(all);
        catalog.set(result);
        return result;
    }

    /** An asset's path. */
    static String asset(String id, String path) {
        return ASSETS + "/" + id + "/" + path;
    }

    /** Copies a folder into the app; a loaded model of the same name is closed. */
    void take(Files source, Models models) {
        job = new ImportJob(source, models);
        importing.set(new Import(true, 0, 0, null, null));
        copying.run(job);
    }

    /** Ends the copy that is running. */
    void cancelImport() {
        if (job != null) {
            job.stop();
        }
    }

    /** The message was read. */
    void forgetImport() {
        if (!importing.get().running) {
            importing.set(Import.NONE);
        }
    }

    /** Deletes an imported model. */
    void delete(Found found, Models models) {
        worker.run(() -> {
            models.closeIf(found.id);
            Streams.delete(found.folder);
            read();
        });
    }

    /** Names of the runtimes' licences, which the offline build packs. */
    List<String> notices() {
        return list(context.getAssets(), NOTICES);
    }

    /** One of them, or why it cannot be read. */
    String notices(String name) {
        try {
            return Streams.text(path -> context.getAssets().open(NOTICES + "/" + path), name);
        } catch (IOException e) {
            return Failures.sentence(e);
        }
    }

    private static Found found(String id, Files files, File folder) {
        try {
            Bundle bundle = Bundle.parse(Streams.text(files, "bundle.json"));
            if (!bundle.id().equals(id)) {
                throw new BundleException("bundle.json says that it is " + bundle.id()
                        + "; write the folder again with `qexport bundle`");
            }
            return new Found(id, bundle, null, files, folder);
        } catch (BundleException | IOException | RuntimeException e) {
            return new Found(id, null, Failures.sentence(e), files, folder);
        }
    }

    private static List<String> list(AssetManager assets, String folder) {
        try {
            String[] names = assets.list(folder);
            return names == null ? new ArrayList<>() : Arrays.asList(names);
        } catch (IOException e) {
            return new ArrayList<>();  // no such folder
        }
    }

    private final class ImportJob implements Worker.Job {
        private final Files source;
        private final Models models;
        private volatile boolean stopped;

        ImportJob(Files source, Models models) {
            this.source = source;
            this.models = models;
        }

        @Override
        public void stop() {
            stopped = true;
        }

        @Override
        public void run() {
            Import end;
            try {
                if (!imported.isDirectory() && !imported.mkdirs()) {
                    throw new IOException(imported + " cannot be made");
                }
                String id = Importer.run(source, imported, imported.getUsableSpace(), (done, all) -> {
                    importing.set(new Import(true, done, all, null, null));
                    return !stopped;
                });
                end = id == null ? Import.NONE : new Import(false, 0, 0, id, null);
                if (id != null) {
                    worker.run(() -> models.closeIf(id));  // its files are others now
                }
            } catch (BundleException | IOException | RuntimeException | VirtualMachineError e) {
                end = new Import(false, 0, 0, null, Failures.sentence(e));
            }
            read();
            importing.set(end);
        }
    }
}
