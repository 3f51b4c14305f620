package org.pytorch.executorch;

/** Types of a tensor's numbers. */
public enum DType {
    UINT8(0),
    INT8(1),
    INT16(2),
    INT32(3),
    INT64(4),
    HALF(5),
    FLOAT(6),
    DOUBLE(7),
    BOOL(11),
    BFLOAT16(15);

    /** ExecuTorch's own number of the type. */
    public final int jniCode;

    DType(int jniCode) {
        this.jniCode = jniCode;
    }

    /** Throws IllegalArgumentException for one that is not known here. */
    public static DType fromJniCode(int jniCode) {
        for (DType type : values()) {
            if (type.jniCode == jniCode) {
                return type;
            }
        }
        throw new IllegalArgumentException("No DType has the code " + jniCode);
    }
}
