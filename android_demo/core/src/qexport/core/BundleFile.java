package qexport.core;

/** One file of a bundle, as bundle.json lists it. */
public final class BundleFile {
    private final String path;
    private final long bytes;
    private final String sha256;

    BundleFile(String path, long bytes, String sha256) {
        this.path = path;
        this.bytes = bytes;
        this.sha256 = sha256;
    }

    /** Its path in the bundle's folder. */
    public String path() {
        return path;
    }

    /** Its size. */
    public long bytes() {
        return bytes;
    }

    /** Its SHA-256 in lower-case hex. */
    public String sha256() {
        return sha256;
    }
}
