// Natives of host/src-et's org.pytorch.executorch on a JVM of this machine, over the C++ libraries of ExecuTorch's wheel.
//
// Behaves as ExecuTorch's own Android natives do where the app's engine can tell: a program is read when the module is
// made, results lie in the module's memory until it runs again, and one pool of threads serves all modules.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <jni.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

// The wheel has this class in libexecutorch_threadpool.so, but not its header.
namespace executorch::extension::threadpool {
class ThreadPool {
public:
    bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

Module& module_of(jlong handle) { return *reinterpret_cast<Module*>(handle); }

std::string text_of(JNIEnv* env, jstring text) {
    const char* bytes = env->GetStringUTFChars(text, nullptr);
    std::string copy = bytes ? bytes : "";
    if (bytes) env->ReleaseStringUTFChars(text, bytes);
    return copy;
}

void raise(JNIEnv* env, Error error, const std::string& details) {
    if (env->ExceptionCheck()) return;
    jclass type = env->FindClass("org/pytorch/executorch/ExecutorchRuntimeException");
    jmethodID make = type ? env->GetMethodID(type, "<init>", "(ILjava/lang/String;)V") : nullptr;
    jstring message = make ? env->NewStringUTF(details.c_str()) : nullptr;
    jobject thrown = message ? env->NewObject(type, make, static_cast<jint>(error), message) : nullptr;
    if (thrown) env->Throw(static_cast<jthrowable>(thrown));
}

// Memory of a direct buffer as a tensor; empty with an exception pending where it is none.
TensorPtr tensor_of(JNIEnv* env, jobject buffer, jlongArray shape, jint type) {
    void* memory = buffer ? env->GetDirectBufferAddress(buffer) : nullptr;
    const jsize rank = env->GetArrayLength(shape);
    std::vector<jlong> wide(rank);
    env->GetLongArrayRegion(shape, 0, rank, wide.data());
    jlong count = 1;
    for (jlong size : wide) count *= size;
    if (!memory || env->GetDirectBufferCapacity(buffer) != count) {
        raise(env, Error::InvalidArgument, "a tensor's buffer is not direct, or of another size than its shape");
        return nullptr;
    }
    return from_blob(memory, {wide.begin(), wide.end()}, static_cast<ScalarType>(type));
}

jobject value_of(JNIEnv* env, jclass values, const EValue& value) {
    if (value.isInt()) {
        jmethodID from = env->GetStaticMethodID(values, "from", "(J)Lorg/pytorch/executorch/EValue;");
        return from ? env->CallStaticObjectMethod(values, from, static_cast<jlong>(value.toInt())) : nullptr;
    }
    if (value.isString()) {
        const std::string text(value.toString().begin(), value.toString().end());
        jmethodID from =
            env->GetStaticMethodID(values, "from", "(Ljava/lang/String;)Lorg/pytorch/executorch/EValue;");
        jstring copy = from ? env->NewStringUTF(text.c_str()) : nullptr;
        return copy ? env->CallStaticObjectMethod(values, from, copy) : nullptr;
    }
    if (value.isBool()) {
        jmethodID from = env->GetStaticMethodID(values, "from", "(Z)Lorg/pytorch/executorch/EValue;");
        return from ? env->CallStaticObjectMethod(values, from, static_cast<jboolean>(value.toBool())) : nullptr;
    }
    if (!value.isTensor()) {
        raise(env, Error::InvalidArgument, "a result is neither a tensor nor an integer, a text or a truth value");
        return nullptr;
    }
    const auto tensor = value.toTensor();
    std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
    jclass tensors = env->FindClass("org/pytorch/executorch/Tensor");
    jmethodID make = tensors ? env->GetStaticMethodID(
        tensors, "ofNative", "(Ljava/nio/ByteBuffer;[JI)Lorg/pytorch/executorch/Tensor;") : nullptr;
    jmethodID from = make ? env->GetStaticMethodID(
        values, "from", "(Lorg/pytorch/executorch/Tensor;)Lorg/pytorch/executorch/EValue;") : nullptr;
    jlongArray shape = from ? env->NewLongArray(static_cast<jsize>(sizes.size())) : nullptr;
    if (!shape) return nullptr;
    env->SetLongArrayRegion(shape, 0, static_cast<jsize>(sizes.size()), sizes.data());
    jobject bytes = env->NewDirectByteBuffer(tensor.mutable_data_ptr(), static_cast<jlong>(tensor.nbytes()));
    if (!bytes) return nullptr;
    const jint type = static_cast<jint>(tensor.scalar_type());
    jobject wrapped = env->CallStaticObjectMethod(tensors, make, bytes, shape, type);
    return env->ExceptionCheck() ? nullptr : env->CallStaticObjectMethod(values, from, wrapped);
}

jobjectArray array_of(JNIEnv* env, jclass type, size_t count) {
    return type ? env->NewObjectArray(static_cast<jsize>(count), type, nullptr) : nullptr;
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL
Java_org_pytorch_executorch_Module_open(JNIEnv* env, jclass, jstring path, jint mode, jint threads) {
    auto opened = std::make_unique<Module>(
        text_of(env, path), mode == 0 ? Module::LoadMode::File : Module::LoadMode::Mmap);
    auto* pool = threads > 0 ? executorch::extension::threadpool::get_threadpool() : nullptr;
    if (pool) pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    const Error error = opened->load();
    if (error != Error::Ok) {
        raise(env, error, "Cannot load the program");
        return 0;
    }
    return reinterpret_cast<jlong>(opened.release());
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_Module_free(JNIEnv*, jclass, jlong handle) {
    delete reinterpret_cast<Module*>(handle);
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_names(JNIEnv* env, jclass, jlong handle) {
    const auto names = module_of(handle).method_names();
    if (!names.ok()) {
        raise(env, names.error(), "Cannot list the methods");
        return nullptr;
    }
    jobjectArray result = array_of(env, env->FindClass("java/lang/String"), names->size());
    jsize place = 0;
    for (const std::string& name : *names) {
        jstring copy = result ? env->NewStringUTF(name.c_str()) : nullptr;
        if (!copy) return nullptr;
        env->SetObjectArrayElement(result, place++, copy);
        env->DeleteLocalRef(copy);
    }
    return result;
}

JNIEXPORT void JNICALL
Java_org_pytorch_executorch_Module_prepare(JNIEnv* env, jclass, jlong handle, jstring method) {
    const std::string name = text_of(env, method);
    const Error error = module_of(handle).load_method(name);
    if (error != Error::Ok) raise(env, error, "Failed to load method: " + name);
}

JNIEXPORT jobjectArray JNICALL Java_org_pytorch_executorch_Module_run(
    JNIEnv* env, jclass, jlong handle, jstring method, jobjectArray buffers, jobjectArray shapes, jintArray types) {
    const std::string name = text_of(env, method);
    const jsize count = env->GetArrayLength(buffers);
    std::vector<jint> codes(count);
    env->GetIntArrayRegion(types, 0, count, codes.data());
    std::vector<TensorPtr> tensors;
    std::vector<EValue> inputs;
    for (jsize i = 0; i < count; i++) {
        jobject buffer = env->GetObjectArrayElement(buffers, i);
        auto shape = static_cast<jlongArray>(env->GetObjectArrayElement(shapes, i));
        tensors.push_back(tensor_of(env, buffer, shape, codes[i]));
        if (!tensors.back()) return nullptr;
        inputs.emplace_back(tensors.back());
    }
    const auto found = module_of(handle).execute(name, inputs);
    if (!found.ok()) {
        raise(env, found.error(), "Execution failed for method: " + name);
        return nullptr;
    }
    jclass values = env->FindClass("org/pytorch/executorch/EValue");
    jobjectArray result = array_of(env, values, found->size());
    for (size_t i = 0; result && i < found->size(); i++) {
        jobject value = value_of(env, values, found->at(i));
        if (env->ExceptionCheck()) return nullptr;
        env->SetObjectArrayElement(result, static_cast<jsize>(i), value);
    }
    return result;
}

}  // extern "C"
