package org.pytorch.executorch;

/** What a method takes and gives: a tensor or a single value. */
public final class EValue {
    private final Object data;

    private EValue(Object data) {
        this.data = data;
    }

    public static EValue from(Tensor tensor) {
        return new EValue(tensor);
    }

    public static EValue from(boolean value) {
        return new EValue(value);
    }

    public static EValue from(long value) {
        return new EValue(value);
    }

    public static EValue from(double value) {
        return new EValue(value);
    }

    public static EValue from(String value) {
        return new EValue(value);
    }

    public boolean isTensor() {
        return data instanceof Tensor;
    }

    public boolean isInt() {
        return data instanceof Long;
    }

    /** Throws IllegalStateException where it is something else, as {@link #toInt} does. */
    public Tensor toTensor() {
        return as(Tensor.class);
    }

    public long toInt() {
        return as(Long.class);
    }

    private <T> T as(Class<T> type) {
        if (!type.isInstance(data)) {
            throw new IllegalStateException("The value is " + data + ", not a " + type.getSimpleName());
        }
        return type.cast(data);
    }
}
