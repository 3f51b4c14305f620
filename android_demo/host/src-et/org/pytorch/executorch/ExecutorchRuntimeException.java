package org.pytorch.executorch;

/** ExecuTorch's error, by its own number (runtime/core/error.h). */
public class ExecutorchRuntimeException extends RuntimeException {
    public static final int NOT_SUPPORTED = 0x10;
    public static final int INVALID_ARGUMENT = 0x12;
    public static final int OPERATOR_MISSING = 0x14;
    public static final int NOT_FOUND = 0x20;
    public static final int MEMORY_ALLOCATION_FAILED = 0x21;
    public static final int ACCESS_FAILED = 0x22;
    public static final int INVALID_PROGRAM = 0x23;

    private static final long serialVersionUID = 1L;

    private final int errorCode;

    public ExecutorchRuntimeException(int errorCode, String details) {
        super("[ExecuTorch Error 0x" + Integer.toHexString(errorCode) + "] " + name(errorCode) + details);
        this.errorCode = errorCode;
    }

    public final int getErrorCode() {
        return errorCode;
    }

    private static String name(int errorCode) {
        switch (errorCode) {
            case NOT_SUPPORTED:
                return "Operation not supported: ";
            case INVALID_ARGUMENT:
                return "Invalid argument: ";
            case OPERATOR_MISSING:
                return "Operator missing: ";
            case NOT_FOUND:
                return "Resource not found: ";
            case MEMORY_ALLOCATION_FAILED:
                return "Memory allocation failed: ";
            case ACCESS_FAILED:
                return "Access failed: ";
            case INVALID_PROGRAM:
                return "Invalid program: ";
            default:
                return "";
        }
    }
}
