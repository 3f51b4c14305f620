/*
 * The natives of ai.onnxruntime (ONNX Runtime's Java API) that OrtEngine uses, for Linux.
 *
 * The AAR's own JNI library is Android's; this one lets the same Java classes run on a desktop JVM against a
 * desktop libonnxruntime. It asks the library that Java has loaded already for its API, by its SONAME, so one build
 * serves every release: linked symbols would carry the version of one. A native that is missing here throws
 * UnsatisfiedLinkError when it is called.
 */
#include <dlfcn.h>
#include <jni.h>
#include <stdint.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

#define NATIVE(type, name) JNIEXPORT type JNICALL Java_ai_onnxruntime_##name

static const OrtApi *api_of(jlong handle) { return (const OrtApi *)(intptr_t)handle; }
static void *pointer(jlong handle) { return (void *)(intptr_t)handle; }
static jlong handle_of(const void *pointer) { return (jlong)(intptr_t)pointer; }

/* Java's ids of element types are ordinals of TensorInfo.OnnxTensorType, C's another order. */
static const jint JAVA_TYPE[] = {0, 10, 1, 2, 3, 4, 6, 8, 12, 13, 9, 11, 5, 7, 14, 15, 16};
static const ONNXTensorElementDataType C_TYPE[] = {0, 2, 3, 4, 5, 12, 6, 13, 7, 10, 1, 11, 8, 9, 14, 15, 16};
#define TYPES ((int)(sizeof C_TYPE / sizeof C_TYPE[0]))

/* ---- errors ---- */

static void throw_ort(JNIEnv *env, jint code, const char *message) {
    jclass class = (*env)->FindClass(env, "ai/onnxruntime/OrtException");
    jmethodID make = (*env)->GetMethodID(env, class, "<init>", "(ILjava/lang/String;)V");
    jobject problem = (*env)->NewObject(env, class, make, code, (*env)->NewStringUTF(env, message));
    (*env)->Throw(env, problem);
}

/* Throws OrtException and says 1 where the status is an error. */
static int failed(JNIEnv *env, const OrtApi *api, OrtStatus *status) {
    if (status == NULL) return 0;
    throw_ort(env, (jint)api->GetErrorCode(status), api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return 1;
}

static void *allocated(JNIEnv *env, size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL) throw_ort(env, ORT_FAIL, "no memory is left");
    return memory;
}

/* ---- the library ---- */

static const OrtApiBase *base(JNIEnv *env) {
    void *library = dlopen("libonnxruntime.so.1", RTLD_LAZY | RTLD_NOLOAD);
    const OrtApiBase *(*get)(void) = NULL;
    if (library != NULL) *(void **)&get = dlsym(library, "OrtGetApiBase");
    if (get == NULL) {
        throw_ort(env, ORT_FAIL, "libonnxruntime.so.1 is not loaded");
        return NULL;
    }
    return get();
}

NATIVE(jlong, OnnxRuntime_initialiseAPIBase)(JNIEnv *env, jclass class, jint version) {
    (void)class;
    const OrtApiBase *found = base(env);
    return found == NULL ? 0 : handle_of(found->GetApi((uint32_t)version));
}

NATIVE(jlong, OnnxRuntime_initialiseTrainingAPIBase)(JNIEnv *env, jclass class, jlong api, jint version) {
    (void)env, (void)class, (void)api, (void)version;
    return 0; /* no training here */
}

NATIVE(jlong, OnnxRuntime_initialiseCompileAPIBase)(JNIEnv *env, jclass class, jlong api) {
    (void)env, (void)class;
    return handle_of(api_of(api)->GetCompileApi());
}

NATIVE(jstring, OnnxRuntime_initialiseVersion)(JNIEnv *env, jclass class) {
    (void)class;
    const OrtApiBase *found = base(env);
    return found == NULL ? NULL : (*env)->NewStringUTF(env, found->GetVersionString());
}

NATIVE(jobjectArray, OnnxRuntime_getAvailableProviders)(JNIEnv *env, jclass class, jlong handle) {
    (void)class;
    const OrtApi *api = api_of(handle);
    char **names;
    int count;
    if (failed(env, api, api->GetAvailableProviders(&names, &count))) return NULL;
    jobjectArray result = (*env)->NewObjectArray(env, count, (*env)->FindClass(env, "java/lang/String"), NULL);
    for (int i = 0; i < count; i++) {
        (*env)->SetObjectArrayElement(env, result, i, (*env)->NewStringUTF(env, names[i]));
    }
    failed(env, api, api->ReleaseAvailableProviders(names, count));
    return result;
}

/* ---- OrtEnvironment ---- */

NATIVE(jlong, OrtEnvironment_createHandle__JILjava_lang_String_2)
(JNIEnv *env, jclass class, jlong handle, jint level, jstring name) {
    (void)class;
    const OrtApi *api = api_of(handle);
    OrtEnv *made = NULL;
    const char *text = (*env)->GetStringUTFChars(env, name, NULL);
    if (text == NULL) return 0;
    OrtStatus *status = api->CreateEnv((OrtLoggingLevel)level, text, &made);
    (*env)->ReleaseStringUTFChars(env, name, text);
    return failed(env, api, status) ? 0 : handle_of(made);
}

NATIVE(jlong, OrtEnvironment_getDefaultAllocator)(JNIEnv *env, jclass class, jlong handle) {
    (void)class;
    OrtAllocator *found = NULL;
    failed(env, api_of(handle), api_of(handle)->GetAllocatorWithDefaultOptions(&found));
    return handle_of(found);
}

NATIVE(void, OrtEnvironment_setTelemetry)(JNIEnv *env, jclass class, jlong handle, jlong self, jboolean on) {
    (void)class;
    const OrtApi *api = api_of(handle);
    failed(env, api, on ? api->EnableTelemetryEvents(pointer(self)) : api->DisableTelemetryEvents(pointer(self)));
}

NATIVE(void, OrtEnvironment_close)(JNIEnv *env, jclass class, jlong handle, jlong self) {
    (void)env, (void)class;
    api_of(handle)->ReleaseEnv(pointer(self));
}

/* ---- OrtSession.SessionOptions ---- */

NATIVE(jlong, OrtSession_00024SessionOptions_createOptions)(JNIEnv *env, jobject self, jlong handle) {
    (void)self;
    OrtSessionOptions *made = NULL;
    failed(env, api_of(handle), api_of(handle)->CreateSessionOptions(&made));
    return handle_of(made);
}

NATIVE(void, OrtSession_00024SessionOptions_setIntraOpNumThreads)
(JNIEnv *env, jobject self, jlong handle, jlong options, jint threads) {
    (void)self;
    failed(env, api_of(handle), api_of(handle)->SetIntraOpNumThreads(pointer(options), threads));
}

NATIVE(void, OrtSession_00024SessionOptions_setCPUArenaAllocator)
(JNIEnv *env, jobject self, jlong handle, jlong options, jboolean on) {
    (void)self;
    const OrtApi *api = api_of(handle);
    failed(env, api, on ? api->EnableCpuMemArena(pointer(options)) : api->DisableCpuMemArena(pointer(options)));
}

NATIVE(void, OrtSession_00024SessionOptions_addConfigEntry)
(JNIEnv *env, jobject self, jlong handle, jlong options, jstring key, jstring value) {
    (void)self;
    const OrtApi *api = api_of(handle);
    const char *name = (*env)->GetStringUTFChars(env, key, NULL);
    const char *text = (*env)->GetStringUTFChars(env, value, NULL);
    OrtStatus *status = name && text ? api->AddSessionConfigEntry(pointer(options), name, text) : NULL;
    if (name) (*env)->ReleaseStringUTFChars(env, key, name);
    if (text) (*env)->ReleaseStringUTFChars(env, value, text);
    failed(env, api, status);
}

NATIVE(void, OrtSession_00024SessionOptions_closeCustomLibraries)(JNIEnv *env, jobject self, jlongArray handles) {
    (void)env, (void)self, (void)handles; /* none can be registered here */
}

NATIVE(void, OrtSession_00024SessionOptions_closeOptions)(JNIEnv *env, jobject self, jlong handle, jlong options) {
    (void)env, (void)self;
    api_of(handle)->ReleaseSessionOptions(pointer(options));
}

/* ---- OrtSession.RunOptions ---- */

NATIVE(jlong, OrtSession_00024RunOptions_createRunOptions)(JNIEnv *env, jclass class, jlong handle) {
    (void)class;
    OrtRunOptions *made = NULL;
    failed(env, api_of(handle), api_of(handle)->CreateRunOptions(&made));
    return handle_of(made);
}

NATIVE(void, OrtSession_00024RunOptions_setTerminate)
(JNIEnv *env, jobject self, jlong handle, jlong options, jboolean on) {
    (void)self;
    const OrtApi *api = api_of(handle);
    failed(env, api, on ? api->RunOptionsSetTerminate(pointer(options)) : api->RunOptionsUnsetTerminate(pointer(options)));
}

NATIVE(void, OrtSession_00024RunOptions_close)(JNIEnv *env, jclass class, jlong handle, jlong options) {
    (void)env, (void)class;
    api_of(handle)->ReleaseRunOptions(pointer(options));
}

/* ---- OrtSession: opening and describing ---- */

NATIVE(jlong, OrtSession_createSession__JJLjava_nio_ByteBuffer_2IIJ)
(JNIEnv *env, jclass class, jlong handle, jlong environment, jobject buffer, jint start, jint size, jlong options) {
    (void)class;
    const OrtApi *api = api_of(handle);
    OrtSession *made = NULL;
    char *model = (*env)->GetDirectBufferAddress(env, buffer);
    if (model == NULL) {
        throw_ort(env, ORT_INVALID_ARGUMENT, "the model's buffer is not direct");
        return 0;
    }
    OrtStatus *status =
        api->CreateSessionFromArray(pointer(environment), model + start, (size_t)size, pointer(options), &made);
    return failed(env, api, status) ? 0 : handle_of(made);
}

NATIVE(jlong, OrtSession_getNumInputs)(JNIEnv *env, jobject self, jlong handle, jlong session) {
    (void)self;
    size_t count = 0;
    failed(env, api_of(handle), api_of(handle)->SessionGetInputCount(pointer(session), &count));
    return (jlong)count;
}

NATIVE(jlong, OrtSession_getNumOutputs)(JNIEnv *env, jobject self, jlong handle, jlong session) {
    (void)self;
    size_t count = 0;
    failed(env, api_of(handle), api_of(handle)->SessionGetOutputCount(pointer(session), &count));
    return (jlong)count;
}

/* What the C API says of either side of a graph. */
typedef struct {
    OrtStatus *(ORT_API_CALL *count)(const OrtSession *, size_t *);
    OrtStatus *(ORT_API_CALL *name)(const OrtSession *, size_t, OrtAllocator *, char **);
    OrtStatus *(ORT_API_CALL *type)(const OrtSession *, size_t, OrtTypeInfo **);
} Side;

static Side inputs_of(const OrtApi *api) {
    return (Side){api->SessionGetInputCount, api->SessionGetInputName, api->SessionGetInputTypeInfo};
}

static Side outputs_of(const OrtApi *api) {
    return (Side){api->SessionGetOutputCount, api->SessionGetOutputName, api->SessionGetOutputTypeInfo};
}

static jstring name_at(JNIEnv *env, const OrtApi *api, Side side, jlong session, size_t i, jlong allocator) {
    char *text = NULL;
    if (failed(env, api, side.name(pointer(session), i, pointer(allocator), &text))) return NULL;
    jstring name = (*env)->NewStringUTF(env, text);
    failed(env, api, api->AllocatorFree(pointer(allocator), text));
    return name;
}

static jobjectArray names(JNIEnv *env, const OrtApi *api, Side side, jlong session, jlong allocator) {
    size_t count = 0;
    if (failed(env, api, side.count(pointer(session), &count))) return NULL;
    jclass string = (*env)->FindClass(env, "java/lang/String");
    jobjectArray result = (*env)->NewObjectArray(env, (jsize)count, string, NULL);
    for (size_t i = 0; i < count; i++) {
        jstring name = name_at(env, api, side, session, i, allocator);
        if (name == NULL) return NULL;
        (*env)->SetObjectArrayElement(env, result, (jsize)i, name);
        (*env)->DeleteLocalRef(env, name);
    }
    return result;
}

NATIVE(jobjectArray, OrtSession_getInputNames)(JNIEnv *env, jobject self, jlong handle, jlong session, jlong allocator) {
    (void)self;
    return names(env, api_of(handle), inputs_of(api_of(handle)), session, allocator);
}

NATIVE(jobjectArray, OrtSession_getOutputNames)(JNIEnv *env, jobject self, jlong handle, jlong session, jlong allocator) {
    (void)self;
    return names(env, api_of(handle), outputs_of(api_of(handle)), session, allocator);
}

/* A Java TensorInfo; NULL with an exception pending where the type is none that Java knows. */
static jobject tensor_info(JNIEnv *env, const OrtApi *api, const OrtTensorTypeAndShapeInfo *info) {
    enum { MOST = 16 };
    ONNXTensorElementDataType type;
    size_t rank;
    int64_t sizes[MOST];
    const char *symbols[MOST];
    if (failed(env, api, api->GetTensorElementType(info, &type))) return NULL;
    if (failed(env, api, api->GetDimensionsCount(info, &rank))) return NULL;
    if (rank > MOST || (int)type >= TYPES) {
        throw_ort(env, ORT_NOT_IMPLEMENTED, "a tensor of more dimensions, or another type, than this shim knows");
        return NULL;
    }
    if (failed(env, api, api->GetDimensions(info, sizes, rank))) return NULL;
    if (failed(env, api, api->GetSymbolicDimensions(info, symbols, rank))) return NULL;

    jlongArray shape = (*env)->NewLongArray(env, (jsize)rank);
    (*env)->SetLongArrayRegion(env, shape, 0, (jsize)rank, (const jlong *)sizes);
    jclass string = (*env)->FindClass(env, "java/lang/String");
    jobjectArray named = (*env)->NewObjectArray(env, (jsize)rank, string, NULL);
    for (size_t i = 0; i < rank; i++) {
        jstring symbol = (*env)->NewStringUTF(env, symbols[i] ? symbols[i] : "");
        (*env)->SetObjectArrayElement(env, named, (jsize)i, symbol);
        (*env)->DeleteLocalRef(env, symbol);
    }
    jclass class = (*env)->FindClass(env, "ai/onnxruntime/TensorInfo");
    jmethodID make = (*env)->GetMethodID(env, class, "<init>", "([J[Ljava/lang/String;I)V");
    jobject made = (*env)->NewObject(env, class, make, shape, named, JAVA_TYPE[type]);
    (*env)->DeleteLocalRef(env, shape);
    (*env)->DeleteLocalRef(env, named);
    (*env)->DeleteLocalRef(env, string);
    (*env)->DeleteLocalRef(env, class);
    return made;
}

static jobject node_info(JNIEnv *env, const OrtApi *api, Side side, jlong session, size_t i, jlong allocator) {
    OrtTypeInfo *type = NULL;
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    jstring name = name_at(env, api, side, session, i, allocator);
    if (name == NULL || failed(env, api, side.type(pointer(session), i, &type))) return NULL;
    jobject info = NULL;
    if (!failed(env, api, api->CastTypeInfoToTensorInfo(type, &tensor))) {
        if (tensor != NULL) info = tensor_info(env, api, tensor);
        else throw_ort(env, ORT_NOT_IMPLEMENTED, "an input or output that is no tensor");
    }
    api->ReleaseTypeInfo(type);
    if (info == NULL) return NULL;
    jclass class = (*env)->FindClass(env, "ai/onnxruntime/NodeInfo");
    jmethodID make = (*env)->GetMethodID(env, class, "<init>", "(Ljava/lang/String;Lai/onnxruntime/ValueInfo;)V");
    jobject made = (*env)->NewObject(env, class, make, name, info);
    (*env)->DeleteLocalRef(env, name);
    (*env)->DeleteLocalRef(env, info);
    (*env)->DeleteLocalRef(env, class);
    return made;
}

static jobjectArray infos(JNIEnv *env, const OrtApi *api, Side side, jlong session, jlong allocator) {
    size_t count = 0;
    if (failed(env, api, side.count(pointer(session), &count))) return NULL;
    jclass class = (*env)->FindClass(env, "ai/onnxruntime/NodeInfo");
    jobjectArray result = (*env)->NewObjectArray(env, (jsize)count, class, NULL);
    for (size_t i = 0; i < count; i++) {
        jobject made = node_info(env, api, side, session, i, allocator);
        if (made == NULL) return NULL;
        (*env)->SetObjectArrayElement(env, result, (jsize)i, made);
        (*env)->DeleteLocalRef(env, made);
    }
    return result;
}

NATIVE(jobjectArray, OrtSession_getInputInfo)(JNIEnv *env, jobject self, jlong handle, jlong session, jlong allocator) {
    (void)self;
    return infos(env, api_of(handle), inputs_of(api_of(handle)), session, allocator);
}

NATIVE(jobjectArray, OrtSession_getOutputInfo)(JNIEnv *env, jobject self, jlong handle, jlong session, jlong allocator) {
    (void)self;
    return infos(env, api_of(handle), outputs_of(api_of(handle)), session, allocator);
}

NATIVE(void, OrtSession_closeSession)(JNIEnv *env, jobject self, jlong handle, jlong session) {
    (void)env, (void)self;
    api_of(handle)->ReleaseSession(pointer(session));
}

/* ---- OrtSession.run ---- */

/* One side of a run; outputs' values are NULL where the runtime shall make them. */
typedef struct {
    jsize count;
    char **names;
    OrtValue **values;
} Values;

static void forget(Values *side) {
    for (jsize i = 0; side->names && i < side->count; i++) free(side->names[i]);
    free(side->names);
    free(side->values);
}

/* A copy, since Java's own characters cannot be released while an exception is pending; NULL without memory. */
static char *copied(JNIEnv *env, jstring text) {
    char *copy = allocated(env, (size_t)(*env)->GetStringUTFLength(env, text) + 1, 1);
    if (copy) (*env)->GetStringUTFRegion(env, text, 0, (*env)->GetStringLength(env, text), copy);
    return copy;
}

/* 1 where all was read; else an exception is pending. */
static int read_side(JNIEnv *env, Values *side, jlong count, jobjectArray names, jlongArray handles) {
    *side = (Values){(jsize)count, NULL, NULL};
    if (!(side->names = allocated(env, (size_t)count, sizeof(char *)))) return 0;
    if (!(side->values = allocated(env, (size_t)count, sizeof(OrtValue *)))) return 0;
    for (jsize i = 0; i < side->count; i++) {
        jlong value;
        (*env)->GetLongArrayRegion(env, handles, i, 1, &value);
        side->values[i] = pointer(value);
        jstring name = (*env)->GetObjectArrayElement(env, names, i);
        if ((*env)->ExceptionCheck(env) || !(side->names[i] = copied(env, name))) return 0;
        (*env)->DeleteLocalRef(env, name);
    }
    return 1;
}

/* A Java OnnxTensor that owns the value. */
static jobject tensor_of(JNIEnv *env, const OrtApi *api, OrtValue *value, jlong allocator) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    if (failed(env, api, api->GetTensorTypeAndShape(value, &info))) return NULL;
    jobject described = tensor_info(env, api, info);
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (described == NULL) return NULL;
    jclass class = (*env)->FindClass(env, "ai/onnxruntime/OnnxTensor");
    jmethodID make = (*env)->GetMethodID(env, class, "<init>", "(JJLai/onnxruntime/TensorInfo;)V");
    jobject made = (*env)->NewObject(env, class, make, handle_of(value), allocator, described);
    (*env)->DeleteLocalRef(env, described);
    (*env)->DeleteLocalRef(env, class);
    return made;
}

/* Puts what the runtime made into Java's array; true in the result where Java did not give the value. */
static jbooleanArray hand_over(
    JNIEnv *env, const OrtApi *api, Values *outputs, jlongArray given, jobjectArray into, jlong allocator) {
    jbooleanArray owned = (*env)->NewBooleanArray(env, outputs->count);
    const jboolean yes = JNI_TRUE;
    for (jsize i = 0; i < outputs->count; i++) {
        jlong before;
        (*env)->GetLongArrayRegion(env, given, i, 1, &before);
        if (before != 0) continue;
        jobject tensor = tensor_of(env, api, outputs->values[i], allocator);
        if (tensor == NULL) return NULL;
        (*env)->SetObjectArrayElement(env, into, i, tensor);
        (*env)->SetBooleanArrayRegion(env, owned, i, 1, &yes);
        (*env)->DeleteLocalRef(env, tensor);
    }
    return owned;
}

NATIVE(jbooleanArray, OrtSession_run)
(JNIEnv *env, jobject self, jlong handle, jlong session, jlong allocator, jobjectArray input_names,
 jlongArray input_handles, jlong input_count, jobjectArray output_names, jlong output_count,
 jobjectArray output_values, jlongArray output_handles, jlong options) {
    (void)self;
    const OrtApi *api = api_of(handle);
    Values inputs = {0}, outputs = {0};
    jbooleanArray owned = NULL;
    if (read_side(env, &inputs, input_count, input_names, input_handles) &&
        read_side(env, &outputs, output_count, output_names, output_handles)) {
        OrtStatus *status =
            api->Run(pointer(session), pointer(options), (const char *const *)inputs.names,
                     (const OrtValue *const *)inputs.values,
                     (size_t)inputs.count, (const char *const *)outputs.names, (size_t)outputs.count, outputs.values);
        if (!failed(env, api, status)) {
            owned = hand_over(env, api, &outputs, output_handles, output_values, allocator);
        }
    }
    forget(&inputs);
    forget(&outputs);
    return owned;
}

/* ---- OnnxTensor ---- */

NATIVE(jlong, OnnxTensor_createTensorFromBuffer)
(JNIEnv *env, jclass class, jlong handle, jlong allocator, jobject buffer, jint start, jlong size, jlongArray shape,
 jint type) {
    (void)class, (void)allocator;
    const OrtApi *api = api_of(handle);
    OrtMemoryInfo *memory = NULL;
    OrtValue *made = NULL;
    if (type < 0 || type >= TYPES) {
        throw_ort(env, ORT_INVALID_ARGUMENT, "an element type that this shim does not know");
        return 0;
    }
    if (failed(env, api, api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory))) return 0;
    char *data = (*env)->GetDirectBufferAddress(env, buffer);
    jlong *sizes = (*env)->GetLongArrayElements(env, shape, NULL);
    jsize rank = (*env)->GetArrayLength(env, shape);
    OrtStatus *status = api->CreateTensorWithDataAsOrtValue(
        memory, data + start, (size_t)size, (const int64_t *)sizes, (size_t)rank, C_TYPE[type], &made);
    (*env)->ReleaseLongArrayElements(env, shape, sizes, JNI_ABORT);
    api->ReleaseMemoryInfo(memory);
    return failed(env, api, status) ? 0 : handle_of(made);
}

NATIVE(void, OnnxTensor_close)(JNIEnv *env, jobject self, jlong handle, jlong value) {
    (void)env, (void)self;
    api_of(handle)->ReleaseValue(pointer(value));
}
