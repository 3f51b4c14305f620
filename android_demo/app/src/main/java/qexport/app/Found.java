package qexport.app;

import java.io.File;
import qexport.core.Bundle;
import qexport.core.Files;

/** A model's folder, in the app or imported; with what is wrong with its bundle.json where it cannot be read. */
final class Found {
    /** The folder's name. */
    final String id;
    /** Null: see `problem`. */
    final Bundle bundle;
    final String problem;
    final Files files;
    /** Where it was imported to; null: part of the app, so that it cannot be deleted. */
    final File folder;

    Found(String id, Bundle bundle, String problem, Files files, File folder) {
        this.id = id;
        this.bundle = bundle;
        this.problem = problem;
        this.files = files;
        this.folder = folder;
    }
}
