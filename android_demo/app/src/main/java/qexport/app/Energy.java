package qexport.app;

import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.os.BatteryManager;
import android.os.PowerManager;
import java.io.File;
import qexport.core.EnergyPolicy;

/** Reads battery, battery saver and heat; core's policy decides. */
final class Energy implements EnergyWatch.Source {
    private final Context context;
    private final Preferences preferences;
    private final int cores = FastCores.count(
            new File("/sys/devices/system/cpu"), Runtime.getRuntime().availableProcessors());

    Energy(Context context, Preferences preferences) {
        this.context = context;
        this.preferences = preferences;
    }

    @Override
    public EnergyPolicy.Decision decide() {
        return preferences.energyAware() ? asReported() : EnergyPolicy.off(cores);
    }

    private EnergyPolicy.Decision asReported() {
        // a sticky broadcast: no receiver is needed to read the last one
        Intent battery = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
        int level = -1;
        boolean charging = false;
        if (battery != null) {
            int scale = battery.getIntExtra(BatteryManager.EXTRA_SCALE, -1);
            int raw = battery.getIntExtra(BatteryManager.EXTRA_LEVEL, -1);
            level = raw >= 0 && scale > 0 ? Math.min(100, 100 * raw / scale) : -1;
            charging = battery.getIntExtra(BatteryManager.EXTRA_PLUGGED, 0) != 0;
        }
        PowerManager power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
        return EnergyPolicy.decide(Newer.thermalStatus(power), level, charging, power.isPowerSaveMode(), cores);
    }
}
