import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.Collections;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipOutputStream;
import org.objectweb.asm.ClassReader;
import org.objectweb.asm.ClassVisitor;
import org.objectweb.asm.ClassWriter;
import org.objectweb.asm.FieldVisitor;
import org.objectweb.asm.MethodVisitor;
import org.objectweb.asm.Opcodes;

/**
 * Class files of a later Java as those of Java 8: `Downgrade IN.jar OUT.jar`.
 *
 * <p>Nests came with Java 11: without them a class has no access to the private members of its inner and outer classes,
 * so those become package-private; a method that was private stays one that no subclass overrides. ONNX Runtime's
 * telemetry, which is what opens connections, is left out: the app works offline.
 */
final class Downgrade {
    private static final int JAVA_8 = 52;

    private Downgrade() {
    }

    public static void main(String[] arguments) throws IOException {
        try (ZipFile in = new ZipFile(arguments[0]);
                ZipOutputStream out = new ZipOutputStream(new FileOutputStream(arguments[1]))) {
            for (ZipEntry entry : Collections.list(in.entries())) {
                if (wanted(entry.getName())) {
                    out.putNextEntry(new ZipEntry(entry.getName()));
                    try (InputStream bytes = in.getInputStream(entry)) {
                        out.write(downgraded(new ClassReader(bytes)));
                    }
                }
            }
        }
    }

    private static boolean wanted(String name) {
        return name.endsWith(".class") && !name.endsWith("module-info.class")
                && !name.startsWith("ai/onnxruntime/telemetry/") && !name.startsWith("ai/onnxruntime/TelemetryInitializer");
    }

    private static byte[] downgraded(ClassReader reader) {
        ClassWriter writer = new ClassWriter(0);
        reader.accept(new Older(writer), 0);
        return writer.toByteArray();
    }

    private static final class Older extends ClassVisitor {
        private boolean isInterface;

        Older(ClassWriter writer) {
            super(Opcodes.ASM9, writer);
        }

        @Override
        public void visit(int version, int access, String name, String signature, String parent, String[] interfaces) {
            isInterface = (access & Opcodes.ACC_INTERFACE) != 0;
            super.visit(Math.min(version & 0xffff, JAVA_8), access, name, signature, parent, interfaces);
        }

        @Override
        public void visitNestHost(String host) {
        }

        @Override
        public void visitNestMember(String member) {
        }

        @Override
        public FieldVisitor visitField(int access, String name, String type, String signature, Object value) {
            return super.visitField(opened(access), name, type, signature, value);
        }

        @Override
        public MethodVisitor visitMethod(int access, String name, String type, String signature, String[] thrown) {
            boolean own = (access & Opcodes.ACC_PRIVATE) != 0 && (access & Opcodes.ACC_STATIC) == 0
                    && !name.startsWith("<") && !isInterface;
            return super.visitMethod(opened(access) | (own ? Opcodes.ACC_FINAL : 0), name, type, signature, thrown);
        }

        private int opened(int access) {
            return isInterface ? access : access & ~Opcodes.ACC_PRIVATE;
        }
    }
}
