package qexport.app;

import android.os.Build;
import android.os.PowerManager;

/**
 * Calls that came after Android 6: the offline build compiles against its class library, the newest that Debian has, so
 * they go by name, and only where the device has them.
 */
final class Newer {
    private static final int Q = 29;

    private Newer() {
    }

    /** PowerManager.getCurrentThermalStatus: 0 (none) to 6 (shutdown); 0 before Android 10. */
    static int thermalStatus(PowerManager power) {
        if (Build.VERSION.SDK_INT < Q) {
            return 0;
        }
        try {
            return (Integer) PowerManager.class.getMethod("getCurrentThermalStatus").invoke(power);
        } catch (ReflectiveOperationException e) {
            return 0;  // a device that does not tell is treated as a cool one
        }
    }
}
