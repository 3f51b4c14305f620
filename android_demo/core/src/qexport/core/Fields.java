package qexport.core;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Typed, checked access to a JSON object; what is missing or of another kind is named by its place. */
final class Fields {
    private final String file;
    private final String place;
    private final String remedy;
    private final Map<?, ?> map;

    private Fields(String file, String place, String remedy, Map<?, ?> map) {
        this.file = file;
        this.place = place;
        this.remedy = remedy;
        this.map = map;
    }

    /** Reads the object in `json`; `remedy` ends every message: the way out. */
    static Fields of(String file, String json, String remedy) throws BundleException {
        Object value;
        try {
            value = Json.parse(json);
        } catch (JsonException e) {
            throw new BundleException(file + ": not JSON: " + e.getMessage() + "; " + remedy, e);
        }
        if (!(value instanceof Map)) {
            throw new BundleException(file + ": holds " + kind(value) + ", not an object; " + remedy);
        }
        return new Fields(file, "", remedy, (Map<?, ?>) value);
    }

    /** An exception that names `key` under this object. */
    BundleException wrong(String key, String what) {
        String name = place.isEmpty() ? key : key.isEmpty() ? place : place + "." + key;
        return new BundleException(file + ": " + (name.isEmpty() ? "" : name + " ") + what + "; " + remedy);
    }

    Map<?, ?> map() {
        return map;
    }

    /** True when the key is there and not null. */
    boolean has(String key) {
        return map.get(key) != null;
    }

    String string(String key) throws BundleException {
        Object value = get(key);
        if (!(value instanceof String)) {
            throw wrong(key, "is " + kind(value) + ", not a string");
        }
        return (String) value;
    }

    boolean bool(String key) throws BundleException {
        Object value = get(key);
        if (!(value instanceof Boolean)) {
            throw wrong(key, "is " + kind(value) + ", not true or false");
        }
        return (Boolean) value;
    }

    long number(String key, long least, long most) throws BundleException {
        return number(key, get(key), least, most);
    }

    int integer(String key, int least, int most) throws BundleException {
        return (int) number(key, least, most);
    }

    double real(String key) throws BundleException {
        return real(key, get(key));
    }

    Fields object(String key) throws BundleException {
        return object(key, get(key));
    }

    List<?> list(String key) throws BundleException {
        Object value = get(key);
        if (!(value instanceof List)) {
            throw wrong(key, "is " + kind(value) + ", not a list");
        }
        return (List<?>) value;
    }

    List<String> strings(String key) throws BundleException {
        List<String> result = new ArrayList<>();
        for (Object item : list(key)) {
            if (!(item instanceof String)) {
                throw wrong(key + "[" + result.size() + "]", "is " + kind(item) + ", not a string");
            }
            result.add((String) item);
        }
        return result;
    }

    int[] integers(String key, int least, int most) throws BundleException {
        List<?> list = list(key);
        int[] result = new int[list.size()];
        for (int i = 0; i < result.length; i++) {
            result[i] = (int) number(key + "[" + i + "]", list.get(i), least, most);
        }
        return result;
    }

    double[] reals(String key) throws BundleException {
        List<?> list = list(key);
        double[] result = new double[list.size()];
        for (int i = 0; i < result.length; i++) {
            result[i] = real(key + "[" + i + "]", list.get(i));
        }
        return result;
    }

    List<Fields> objects(String key) throws BundleException {
        List<Fields> result = new ArrayList<>();
        for (Object item : list(key)) {
            result.add(object(key + "[" + result.size() + "]", item));
        }
        return result;
    }

    private Object get(String key) throws BundleException {
        if (!map.containsKey(key)) {
            throw wrong(key, "is missing");
        }
        return map.get(key);
    }

    private Fields object(String key, Object value) throws BundleException {
        if (!(value instanceof Map)) {
            throw wrong(key, "is " + kind(value) + ", not an object");
        }
        return new Fields(file, place.isEmpty() ? key : place + "." + key, remedy, (Map<?, ?>) value);
    }

    private long number(String key, Object value, long least, long most) throws BundleException {
        if (!(value instanceof Long)) {
            throw wrong(key, "is " + kind(value) + ", not a whole number");
        }
        long number = (Long) value;
        if (number < least || number > most) {
            throw wrong(key, "is " + number + ", not in " + least + " to " + most);
        }
        return number;
    }

    private double real(String key, Object value) throws BundleException {
        if (!(value instanceof Number)) {
            throw wrong(key, "is " + kind(value) + ", not a number");
        }
        return ((Number) value).doubleValue();
    }

    private static String kind(Object value) {
        if (value instanceof Map) {
            return "an object";
        }
        if (value instanceof List) {
            return "a list";
        }
        String text = value instanceof String ? "\"" + value + "\"" : String.valueOf(value);
        return text.length() > 60 ? text.substring(0, 60) + "…" : text;
    }
}
