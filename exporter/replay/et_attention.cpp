// llama::custom_sdpa, update_cache and update_cache_with_indices for float32, registered with ExecuTorch.
//
// ExecuTorch's wheels have these kernels only in a library that needs torch and Python, which cannot be had for ARM
// under emulation at a sensible size; a phone's ExecuTorch has its own. So these are plain loops that compute the same
// sums in another order. After a single token, where there is nothing to sum, logits are those of the wheel's kernels to
// the last bit; from then on 1e-6 apart, which int8 activations amplify: what is tested is the program and all else.

#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;

namespace {

bool is_plain(const Tensor& tensor) { return tensor.dim() == 4 && tensor.scalar_type() == ScalarType::Float; }

// value (1, new, heads, size) into cache (1, context, heads, size) from the position on.
Tensor& update_cache_out(
    KernelRuntimeContext& context, const Tensor& value, Tensor& cache, const int64_t position, Tensor& out) {
    const bool fits = is_plain(value) && is_plain(cache) && value.size(0) == 1 && value.size(2) == cache.size(2) &&
        value.size(3) == cache.size(3) && position >= 0 && position + value.size(1) <= cache.size(1);
    ET_KERNEL_CHECK_MSG(context, fits, InvalidArgument, out, "update_cache: float32 of matching sizes, batch 1 only");
    const int64_t row = cache.size(2) * cache.size(3);
    std::memcpy(
        cache.mutable_data_ptr<float>() + position * row, value.const_data_ptr<float>(), value.numel() * sizeof(float));
    return out;
}

// The same with a place for each token: indices (1, new).
Tensor& update_cache_with_indices_out(
    KernelRuntimeContext& context, const Tensor& value, Tensor& cache, const int64_t position, const Tensor& indices,
    Tensor& out) {
    bool fits = is_plain(value) && is_plain(cache) && value.size(0) == 1 && value.size(2) == cache.size(2) &&
        value.size(3) == cache.size(3) && indices.scalar_type() == ScalarType::Long &&
        indices.numel() == value.size(1);
    const int64_t row = cache.size(2) * cache.size(3);
    for (int64_t t = 0; fits && t < value.size(1); t++) {
        const int64_t place = indices.const_data_ptr<int64_t>()[t];
        fits = place >= 0 && place < cache.size(1);
        if (!fits) break;
        std::memcpy(
            cache.mutable_data_ptr<float>() + place * row, value.const_data_ptr<float>() + t * row, row * sizeof(float));
    }
    ET_KERNEL_CHECK_MSG(
        context, fits, InvalidArgument, out, "update_cache_with_indices: float32 of matching sizes, batch 1 only");
    return out;
}

// One query against the keys of its head: out = softmax(scale * query . keys + mask) . values
void attend(
    const float* query, const float* keys, const float* values, const float* mask, int64_t tokens, int64_t stride,
    int64_t size, float scale, std::vector<float>& weights, float* out) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t t = 0; t < tokens; t++) {
        float sum = 0;
        for (int64_t i = 0; i < size; i++) sum += query[i] * keys[t * stride + i];
        weights[t] = sum * scale + (mask ? mask[t] : 0.0f);
        largest = std::max(largest, weights[t]);
    }
    float total = 0;
    for (int64_t t = 0; t < tokens; t++) total += weights[t] = std::exp(weights[t] - largest);
    std::fill(out, out + size, 0.0f);
    for (int64_t t = 0; t < tokens; t++) {
        const float weight = weights[t] / total;
        for (int64_t i = 0; i < size; i++) out[i] += weight * values[t * stride + i];
    }
}

// query (1, new, heads, size), keys and values (1, context, kv heads, size): causal, or with a mask (new, context) that
// says all there is to say; without dropout.
Tensor& custom_sdpa_out(
    KernelRuntimeContext& context, const Tensor& query, const Tensor& keys, const Tensor& values,
    const int64_t position, const std::optional<Tensor>& mask, const double dropout, const bool causal,
    const std::optional<double> scale, Tensor& out) {
    const bool known = is_plain(query) && is_plain(keys) && is_plain(values) && query.size(0) == 1 && dropout == 0 &&
        query.size(2) % keys.size(2) == 0 && query.size(3) == keys.size(3) && position >= 0;
    const bool masked = mask && mask->scalar_type() == ScalarType::Float && mask->dim() == 2 && known &&
        mask->size(0) == query.size(1) && mask->size(1) == keys.size(1) && !causal;
    const bool plain = known && !mask && causal && position + query.size(1) <= keys.size(1);
    ET_KERNEL_CHECK_MSG(
        context, masked || plain, InvalidArgument, out, "custom_sdpa: float32, causal or with a float32 mask, batch 1 only");
    ET_KERNEL_CHECK(
        context, executorch::runtime::resize_tensor(out, query.sizes()) == Error::Ok, InvalidArgument, out);
    const int64_t fresh = query.size(1), heads = query.size(2), size = query.size(3), kv_heads = keys.size(2);
    const float factor = scale ? static_cast<float>(*scale) : 1.0f / std::sqrt(static_cast<float>(size));
    std::vector<float> weights(keys.size(1));
    for (int64_t t = 0; t < fresh; t++) {
        for (int64_t head = 0; head < heads; head++) {
            const int64_t from = (t * heads + head) * size, shared = head / (heads / kv_heads) * size;
            const int64_t tokens = masked ? keys.size(1) : position + t + 1;
            const float* allowed = masked ? mask->const_data_ptr<float>() + t * tokens : nullptr;
            attend(
                query.const_data_ptr<float>() + from, keys.const_data_ptr<float>() + shared,
                values.const_data_ptr<float>() + shared, allowed, tokens, kv_heads * size, size, factor, weights,
                out.mutable_data_ptr<float>() + from);
        }
    }
    return out;
}

}  // namespace

EXECUTORCH_LIBRARY(llama, "update_cache.out", update_cache_out);
EXECUTORCH_LIBRARY(llama, "update_cache_with_indices.out", update_cache_with_indices_out);
EXECUTORCH_LIBRARY(llama, "custom_sdpa.out", custom_sdpa_out);
