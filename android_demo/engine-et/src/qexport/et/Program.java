package qexport.et;

import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;
import java.util.List;
import org.pytorch.executorch.DType;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;
import qexport.core.EngineException;
import qexport.core.TextModel;

/** A language model's .pte, checked once against what its bundle says, and the buffers of a call. */
final class Program {
    private static final String FORWARD = "forward";
    private static final String CONTEXT = "get_max_context_len";
    private static final String PART = "get_max_seq_len";
    private static final String VOCAB = "get_vocab_size";
    private static final String AGAIN = "; bundle the model again with qexport bundle.";

    /** Most tokens of one call. */
    final int part;

    private final Module module;
    private final int vocab;
    private final LongBuffer token = Tensor.allocateLongBuffer(1); // a step's, so that it leaves no garbage
    private final LongBuffer position = Tensor.allocateLongBuffer(1); // of the first token
    private final EValue tokenValue = EValue.from(Tensor.fromBlob(token, new long[] {1, 1}));
    private final EValue positionValue = EValue.from(Tensor.fromBlob(position, new long[] {1}));

    private Program(Module module, TextModel text) throws EngineException {
        this.module = module;
        vocab = text.vocab();
        List<String> methods = Arrays.asList(module.getMethods());
        for (String method : new String[] {FORWARD, CONTEXT, PART, VOCAB}) {
            if (!methods.contains(method)) {
                throw new EngineException(
                        "The program has no method " + method + "; it is no language model that qexport wrote.");
            }
        }
        long found = constant(VOCAB);
        if (found != vocab) {
            throw new EngineException("The program gives " + found + " logits, the bundle says " + vocab + AGAIN);
        }
        long context = constant(CONTEXT);
        if (context < text.context()) {
            throw new EngineException(
                    "The program holds " + context + " tokens, the bundle says " + text.context() + AGAIN);
        }
        long most = constant(PART);
        if (most < 1 || most > context) {
            throw new EngineException(
                    "The program takes " + most + " tokens at once and holds " + context + "; export it again.");
        }
        part = (int) most;
        run(new int[] {0}, 0, 1, 0, null); // what a kernel or the memory is missing for shows now, not in a chat
    }

    /** Throws EngineException for a file that is no such program, LinkageError where the app has no ExecuTorch. */
    static Program open(String path, TextModel text, int threads) throws EngineException {
        Threads.claim(threads);
        Module module = null;
        Program program = null;
        try {
            module = Module.load(path, Module.LOAD_MODE_MMAP, threads);
            program = new Program(module, text);
            return program;
        } catch (RuntimeException problem) {
            throw new EngineException("ExecuTorch does not open the model: " + problem.getMessage(), problem);
        } finally {
            if (program == null) {
                release(module);
            }
        }
    }

    /**
     * Takes ids[from] to ids[to - 1], which come after `past` others; logits of the last one into `logits`, unless
     * that is null. Throws ExecuTorch's RuntimeExceptions.
     */
    void run(int[] ids, int from, int to, int past, float[] logits) throws EngineException {
        position.put(0, past);
        EValue[] found = module.execute(FORWARD, tokens(ids, from, to), positionValue);
        if (found.length != 1 || !found[0].isTensor()) {
            throw new EngineException("The program gives " + found.length + " values, not one tensor" + AGAIN);
        }
        Tensor last = found[0].toTensor(); // holds until the next call
        if (last.dtype() != DType.FLOAT || last.numel() != vocab) {
            throw new EngineException("The program gives " + last.dtype() + " " + Arrays.toString(last.shape())
                    + ", the bundle says FLOAT [1, " + vocab + "]" + AGAIN);
        }
        if (logits != null) {
            last.copyDataInto(FloatBuffer.wrap(logits));
        }
    }

    void close() {
        release(module);
    }

    private long constant(String method) throws EngineException {
        EValue[] found = module.execute(method);
        if (found.length != 1 || !found[0].isInt()) {
            throw new EngineException("The program's " + method + " gives no number; export it again.");
        }
        return found[0].toInt();
    }

    private EValue tokens(int[] ids, int from, int to) {
        int count = to - from;
        if (count == 1) {
            token.put(0, ids[from]);
            return tokenValue;
        }
        LongBuffer buffer = Tensor.allocateLongBuffer(count);
        for (int i = 0; i < count; i++) {
            buffer.put(i, ids[from + i]);
        }
        return EValue.from(Tensor.fromBlob(buffer, new long[] {1, count}));
    }

    private static void release(Module module) {
        if (module != null) {
            module.destroy();
        }
        Threads.release();
    }
}
