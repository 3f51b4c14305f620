package org.pytorch.executorch;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

/** Numbers in memory outside Java's heap. Those of a result hold until the module runs again. */
public abstract class Tensor {
    protected final long[] shape;

    Tensor(long[] shape) {
        this.shape = shape.clone();
    }

    /** Room for so many numbers. */
    public static LongBuffer allocateLongBuffer(int numElements) {
        return ByteBuffer.allocateDirect(8 * numElements).order(ByteOrder.nativeOrder()).asLongBuffer();
    }

    /** Over a direct buffer, which is not copied: its whole capacity must be the tensor. */
    public static Tensor fromBlob(LongBuffer data, long[] shape) {
        if (!data.isDirect() || data.order() != ByteOrder.nativeOrder()) {
            throw new IllegalArgumentException("The buffer must be direct and in native byte order");
        }
        if (numel(shape) != data.capacity()) {
            throw new IllegalArgumentException(
                    "A buffer of " + data.capacity() + " for a tensor of " + numel(shape) + " numbers");
        }
        return new Longs(data, shape);
    }

    /** How many numbers a tensor of the shape has. */
    public static long numel(long[] shape) {
        long result = 1;
        for (long size : shape) {
            if (size < 0) {
                throw new IllegalArgumentException("A size of a shape is " + size);
            }
            result *= size;
        }
        return result;
    }

    /** How many numbers it has. */
    public final long numel() {
        return numel(shape);
    }

    /** A copy. */
    public final long[] shape() {
        return shape.clone();
    }

    public abstract DType dtype();

    /** Copies float32 numbers. */
    public void copyDataInto(FloatBuffer dst) {
        throw new IllegalStateException("A tensor of " + dtype() + " has no float32 numbers");
    }

    /** Its memory. */
    public abstract Buffer getRawDataBuffer();

    /** Called by host/et_shim.cpp with memory of the module's. */
    static Tensor ofNative(ByteBuffer data, long[] shape, int code) {
        ByteBuffer ordered = data.order(ByteOrder.nativeOrder());
        if (code == DType.FLOAT.jniCode) {
            return new Floats(ordered.asFloatBuffer(), shape);
        }
        return code == DType.INT64.jniCode ? new Longs(ordered.asLongBuffer(), shape)
                : new Other(ordered, shape, DType.fromJniCode(code));
    }

    private static final class Floats extends Tensor {
        private final FloatBuffer data;

        Floats(FloatBuffer data, long[] shape) {
            super(shape);
            this.data = data;
        }

        @Override
        public DType dtype() {
            return DType.FLOAT;
        }

        @Override
        public void copyDataInto(FloatBuffer dst) {
            data.rewind();
            dst.put(data);
        }

        @Override
        public Buffer getRawDataBuffer() {
            return data;
        }
    }

    private static final class Longs extends Tensor {
        private final LongBuffer data;

        Longs(LongBuffer data, long[] shape) {
            super(shape);
            this.data = data;
        }

        @Override
        public DType dtype() {
            return DType.INT64;
        }

        @Override
        public Buffer getRawDataBuffer() {
            return data;
        }
    }

    /** One whose numbers the engine does not read. */
    private static final class Other extends Tensor {
        private final ByteBuffer data;
        private final DType type;

        Other(ByteBuffer data, long[] shape, DType type) {
            super(shape);
            this.data = data;
            this.type = type;
        }

        @Override
        public DType dtype() {
            return type;
        }

        @Override
        public Buffer getRawDataBuffer() {
            return data;
        }
    }
}
