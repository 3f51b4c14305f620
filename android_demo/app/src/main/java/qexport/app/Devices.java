package qexport.app;

import android.app.ActivityManager;
import android.content.Context;
import android.os.Build;
import java.util.Arrays;
import java.util.Locale;

/** This device, as it is now. */
final class Devices {
    private Devices() {
    }

    /** `held`: bytes of a model that will be closed before another is loaded. */
    static Device now(Context context, long held) {
        ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
        ((ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE)).getMemoryInfo(memory);
        return new Device(Arrays.asList(Build.SUPPORTED_ABIS), Engines.runtimes(context), memory.availMem + held,
                memory.threshold);
    }

    /** For a report. */
    static String description() {
        return String.format(Locale.ROOT, "%s %s, Android %s (API %d)", Build.MANUFACTURER, Build.MODEL,
                Build.VERSION.RELEASE, Build.VERSION.SDK_INT);
    }

    /** The processor that golden values are compared for. */
    static String abi() {
        return Build.SUPPORTED_ABIS[0];
    }
}
