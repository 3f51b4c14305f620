package qexport.core;

import java.util.List;

/** Decides before a bundle is loaded whether this app and device are made for it. */
public final class BundleFit {
    private BundleFit() {
    }

    /**
     * Why the bundle does not run here; null: it does.
     *
     * @param abis the device's processors, as Build.SUPPORTED_ABIS names them
     * @param runtime what this app was built with: onnxruntime or executorch
     * @param version of that runtime, such as 1.29.0
     */
    public static String whyNot(Bundle bundle, List<String> abis, String runtime, String version) {
        if (!bundle.runtime().equals(runtime)) {
            return bundle.title() + " is for " + bundle.runtime() + ", this app has " + runtime
                    + "; bundle the model's file for " + runtime;
        }
        boolean known = false;
        for (String abi : bundle.abis()) {
            known |= abis.contains(abi);
        }
        if (!known) {
            return bundle.title() + " is for " + names(bundle.abis()) + ", this device has " + names(abis)
                    + "; export it for this device";
        }
        int order = compare(version, bundle.minRuntime());
        if (order == UNREADABLE) {
            return bundle.title() + " needs " + runtime + " " + bundle.minRuntime() + ", this app's says it is \""
                    + version + "\", which is not a version like 1.23; update the app";
        }
        return order >= 0 ? null : bundle.title() + " needs " + runtime + " " + bundle.minRuntime()
                + ", this app has " + version + "; update the app or export for min_runtime \"" + version + "\"";
    }

    private static final int UNREADABLE = 2;

    /** -1: older, 0: equal, 1: newer; what follows the numbers (1.29.0-dev) is passed over. */
    private static int compare(String version, String least) {
        String[] found = version.split("[-+]", 2)[0].split("\\.", -1);
        String[] wanted = least.split("\\.");
        for (String part : found) {
            if (!part.matches("[0-9]{1,9}")) {
                return UNREADABLE;
            }
        }
        for (int i = 0; i < Math.max(found.length, wanted.length); i++) {
            long left = i < found.length ? Long.parseLong(found[i]) : 0;
            long right = i < wanted.length ? Long.parseLong(wanted[i]) : 0;
            if (left != right) {
                return left < right ? -1 : 1;
            }
        }
        return 0;
    }

    private static String names(List<String> abis) {
        return abis.isEmpty() ? "none" : String.join(", ", abis);
    }
}
