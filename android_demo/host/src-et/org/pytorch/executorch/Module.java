package org.pytorch.executorch;

import java.io.Closeable;
import java.io.File;
import java.nio.Buffer;
import java.util.concurrent.locks.ReentrantLock;

/** A program file and the memory that its methods keep. */
public class Module implements Closeable {
    /** Reads the whole file into memory. */
    public static final int LOAD_MODE_FILE = 0;

    /** Maps the file. */
    public static final int LOAD_MODE_MMAP = 1;

    static {
        System.loadLibrary("executorch_jni");
    }

    private final ReentrantLock lock = new ReentrantLock();
    private long handle; // of the native module; 0: destroyed

    private Module(String path, int loadMode, int numThreads) {
        handle = open(path, loadMode, numThreads);
    }

    /** With so many threads for all modules of the process; 0: as many as ExecuTorch likes. */
    public static Module load(String modelPath, int loadMode, int numThreads) {
        if (modelPath == null || !new File(modelPath).isFile() || !new File(modelPath).canRead()) {
            throw new IllegalArgumentException("Cannot load model path: no readable file: " + modelPath);
        }
        return new Module(modelPath, loadMode, numThreads);
    }

    public EValue[] forward(EValue... inputs) {
        return execute("forward", inputs);
    }

    /** Inputs are tensors here. Results hold until the next call. */
    public EValue[] execute(String methodName, EValue... inputs) {
        Buffer[] buffers = new Buffer[inputs.length];
        long[][] shapes = new long[inputs.length][];
        int[] types = new int[inputs.length];
        for (int i = 0; i < inputs.length; i++) {
            Tensor tensor = inputs[i].toTensor();
            buffers[i] = tensor.getRawDataBuffer();
            shapes[i] = tensor.shape;
            types[i] = tensor.dtype().jniCode;
        }
        lock.lock();
        try {
            return run(checked(), methodName, buffers, shapes, types);
        } finally {
            lock.unlock();
        }
    }

    /** Otherwise the first call does it. */
    public void loadMethod(String methodName) {
        lock.lock();
        try {
            prepare(checked(), methodName);
        } finally {
            lock.unlock();
        }
    }

    public String[] getMethods() {
        lock.lock();
        try {
            return names(checked());
        } finally {
            lock.unlock();
        }
    }

    /** Frees all. Throws IllegalStateException while a method runs. */
    public void destroy() {
        if (!lock.tryLock()) {
            throw new IllegalStateException("Cannot destroy module while method is executing");
        }
        try {
            free(handle);
            handle = 0;
        } finally {
            lock.unlock();
        }
    }

    @Override
    public void close() {
        destroy();
    }

    private long checked() {
        if (handle == 0) {
            throw new IllegalStateException("Module has been destroyed");
        }
        return handle;
    }

    private static native long open(String path, int loadMode, int numThreads);

    private static native void free(long handle);

    private static native String[] names(long handle);

    private static native void prepare(long handle, String method);

    private static native EValue[] run(long handle, String method, Buffer[] buffers, long[][] shapes, int[] types);
}
