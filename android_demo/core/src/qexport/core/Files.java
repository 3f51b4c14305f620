package qexport.core;

import java.io.IOException;
import java.io.InputStream;

/** The files of one bundle's folder: the app's assets, or a directory. */
public interface Files {
    /** Opens a file by its path in the folder, with `/` between names. */
    InputStream open(String path) throws IOException;
}
