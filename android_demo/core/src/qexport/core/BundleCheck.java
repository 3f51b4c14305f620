package qexport.core;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** Proves that a bundle's files are the ones that were exported, byte for byte. */
public final class BundleCheck {
    private static final String AGAIN = "install the app or copy the folder again";

    private BundleCheck() {
    }

    /** Hears how far the check is, and may end it. */
    public interface Progress {
        /** Called after each block; false ends the check. */
        boolean at(long bytesDone, long bytesOfAll);
    }

    /**
     * Reads every file of the bundle; the first one that is missing or differs is named.
     *
     * @return false when `progress` ended it early
     */
    public static boolean verify(Bundle bundle, Files files, Progress progress) throws BundleException {
        long all = 0;
        for (BundleFile file : bundle.files()) {
            all += file.bytes();
        }
        long done = 0;
        for (BundleFile file : bundle.files()) {
            String place = bundle.id() + "/" + file.path();
            try (InputStream in = files.open(file.path())) {
                if (!verify(place, file, in, progress, done, all)) {
                    return false;
                }
            } catch (FileNotFoundException e) {
                throw new BundleException(place + ": missing; " + AGAIN, e);
            } catch (IOException e) {
                throw new BundleException(place + ": cannot be read: " + e.getMessage() + "; " + AGAIN, e);
            }
            done += file.bytes();
        }
        return true;
    }

    private static boolean verify(String place, BundleFile file, InputStream in, Progress progress, long before,
            long all) throws IOException, BundleException {
        MessageDigest digest = sha256();
        byte[] block = new byte[1 << 16];
        long size = 0;
        int count;
        while ((count = in.read(block)) >= 0) {
            digest.update(block, 0, count);
            size += count;
            if (size > file.bytes()) {
                throw new BundleException(place + ": longer than the " + file.bytes() + " bytes listed; " + AGAIN);
            }
            if (progress != null && !progress.at(before + size, all)) {
                return false;
            }
        }
        if (size < file.bytes()) {
            throw new BundleException(place + ": " + size + " bytes, " + file.bytes() + " are listed; " + AGAIN);
        }
        String found = hex(digest.digest());
        if (!found.equals(file.sha256())) {
            throw new BundleException(place + ": changed: sha256 " + found.substring(0, 12) + "…, "
                    + file.sha256().substring(0, 12) + "… is listed; " + AGAIN);
        }
        return true;
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e);  // every Java platform has it
        }
    }

    private static String hex(byte[] bytes) {
        StringBuilder result = new StringBuilder();
        for (byte b : bytes) {
            result.append(Character.forDigit(b >> 4 & 15, 16)).append(Character.forDigit(b & 15, 16));
        }
        return result.toString();
    }
}
