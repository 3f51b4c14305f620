package qexport.ort;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxJavaType;
import ai.onnxruntime.TensorInfo;
import java.util.Arrays;
import java.util.Map;
import qexport.core.EngineException;

/** One side of a graph, checked against what its bundle says. */
final class Ports {
    private final Map<String, NodeInfo> found;
    private final String side;

    /** `side`: input or output, for messages. */
    Ports(Map<String, NodeInfo> found, String side) {
        this.found = found;
        this.side = side;
    }

    /** `wanted`: the size of each dimension, -1 where it changes from call to call. */
    void check(String name, OnnxJavaType type, long... wanted) throws EngineException {
        TensorInfo info = tensor(name);
        if (info.type != type || !Arrays.equals(info.getShape(), wanted)) {
            throw new EngineException(
                    "The model's " + side + " " + name + " is " + info.type + " " + Arrays.toString(info.getShape())
                            + ", the bundle says " + type + " " + Arrays.toString(wanted)
                            + " (-1: any size); bundle the model again with qexport bundle.");
        }
    }

    TensorInfo tensor(String name) throws EngineException {
        NodeInfo node = found.get(name);
        if (node == null) {
            throw new EngineException(
                    "The model has no " + side + " " + name + "; it is no model of this kind that qexport wrote, or has"
                            + " fewer layers than its bundle says.");
        }
        if (!(node.getInfo() instanceof TensorInfo)) {
            throw new EngineException("The model's " + side + " " + name + " is no tensor.");
        }
        return (TensorInfo) node.getInfo();
    }

    /** Throws EngineException where there are more or fewer. */
    void refuseMore(int wanted, String whose) throws EngineException {
        if (found.size() != wanted) {
            throw new EngineException("The model has " + found.size() + " " + side + "s, " + whose + " has " + wanted
                    + "; bundle the model again with qexport bundle.");
        }
    }
}
