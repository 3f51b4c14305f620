package qexport.app;

import android.content.ContentResolver;
import android.database.Cursor;
import android.net.Uri;
import android.provider.DocumentsContract;
import android.provider.DocumentsContract.Document;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.HashMap;
import java.util.Map;
import qexport.core.Files;

/** A folder that the person chose in the system's picker. */
final class TreeFiles implements Files {
    private static final String[] COLUMNS = {Document.COLUMN_DISPLAY_NAME, Document.COLUMN_DOCUMENT_ID};

    private final ContentResolver resolver;
    private final Uri tree;
    /** Names in each folder that was looked into, to document ids. */
    private final Map<String, Map<String, String>> folders = new HashMap<>();

    TreeFiles(ContentResolver resolver, Uri tree) {
        this.resolver = resolver;
        this.tree = tree;
    }

    @Override
    public InputStream open(String path) throws IOException {
        String id = DocumentsContract.getTreeDocumentId(tree);
        for (String name : path.split("/")) {
            id = children(id).get(name);
            if (id == null) {
                throw new FileNotFoundException(path);
            }
        }
        try {
            InputStream in = resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, id));
            if (in == null) {
                throw new IOException(path + " is not given by the app that holds it");
            }
            return in;
        } catch (RuntimeException e) {  // other apps' providers throw what they like
            throw new IOException(path + " is not given by the app that holds it: " + e.getMessage(), e);
        }
    }

    private Map<String, String> children(String folder) throws IOException {
        Map<String, String> known = folders.get(folder);
        if (known != null) {
            return known;
        }
        Map<String, String> children = new HashMap<>();
        Uri list = DocumentsContract.buildChildDocumentsUriUsingTree(tree, folder);
        try (Cursor cursor = resolver.query(list, COLUMNS, null, null, null)) {
            while (cursor != null && cursor.moveToNext()) {
                children.put(cursor.getString(0), cursor.getString(1));
            }
        } catch (RuntimeException e) {
            throw new IOException("the folder cannot be read: " + e.getMessage(), e);
        }
        folders.put(folder, children);
        return children;
    }
}
