// Runs a language model's .pte without Python or torch, on x86-64 and on ARM (there under user-mode emulation).
//
//   et_run MODEL.pte STEPS < prompts       each line: token ids with blanks between
//
// prints for each line one line of JSON: greedy tokens (exactly STEPS), the likeliest tokens after the prompt and
// their logits. The program keeps its KV cache in buffers of its own; a position behind the tokens that were fed is
// overwritten before it is read, so a new prompt simply starts at position 0.

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

using executorch::extension::make_tensor_ptr;
using executorch::extension::Module;
using executorch::runtime::EValue;

namespace {

constexpr int TOP = 16;  // as many as golden.json has

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "error: %s\n", message.c_str());
    std::exit(1);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Model {
public:
    explicit Model(const std::string& path) : module_(path, Module::LoadMode::Mmap) {
        if (module_.load() != executorch::runtime::Error::Ok) fail(path + ": ExecuTorch does not load it");
        context_ = constant("get_max_context_len");
        piece_ = constant("get_max_seq_len");
    }

    void reset() { position_ = 0; }

    // Logits after the last of the tokens, which are cut into pieces as long as the program takes.
    std::vector<float> feed(const std::vector<int64_t>& ids) {
        if (ids.empty() || position_ + static_cast<int64_t>(ids.size()) > context_) {
            fail(std::to_string(ids.size()) + " tokens after " + std::to_string(position_) +
                 " do not fit: at least 1, and at most " + std::to_string(context_) + " together");
        }
        std::vector<float> logits;
        for (size_t from = 0; from < ids.size(); from += piece_) {
            const size_t to = std::min(ids.size(), from + piece_);
            logits = forward({ids.begin() + from, ids.begin() + to}, to == ids.size());
        }
        return logits;
    }

private:
    int64_t constant(const char* method) {
        auto result = module_.execute(method);
        if (!result.ok() || result->empty() || !result->at(0).isInt()) {
            fail(std::string("the program has no method ") + method + "; it is no language model of qexport");
        }
        return result->at(0).toInt();
    }

    std::vector<float> forward(std::vector<int64_t> ids, bool wanted) {
        const int count = static_cast<int>(ids.size());
        auto tokens = make_tensor_ptr({1, count}, std::move(ids));
        auto position = make_tensor_ptr({1}, std::vector<int64_t>{position_});
        auto result = module_.forward({EValue(tokens), EValue(position)});
        if (!result.ok()) {
            fail("forward failed at position " + std::to_string(position_) + " with ExecuTorch's error " +
                 std::to_string(static_cast<int>(result.error())));
        }
        position_ += count;
        if (!wanted) return {};
        const auto logits = result->at(0).toTensor();
        const auto vocabulary = logits.size(logits.dim() - 1);
        const float* last = logits.const_data_ptr<float>() + logits.numel() - vocabulary;
        return {last, last + vocabulary};
    }

    Module module_;
    int64_t context_ = 0;
    int64_t piece_ = 1;
    int64_t position_ = 0;
};

std::vector<int64_t> likeliest(const std::vector<float>& logits, int count) {
    std::vector<int64_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto end = order.begin() + std::min<size_t>(count, order.size());
    std::partial_sort(order.begin(), end, order.end(), [&](int64_t a, int64_t b) {
        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    });
    return {order.begin(), end};
}

template <typename T>
std::string joined(const std::vector<T>& values) {
    std::ostringstream text;
    for (size_t i = 0; i < values.size(); i++) text << (i ? ", " : "") << values[i];
    return "[" + text.str() + "]";
}

void answer(Model& model, const std::vector<int64_t>& prompt, int steps) {
    model.reset();
    const double start = now();
    std::vector<float> logits = model.feed(prompt);
    const double first = now();
    const std::vector<int64_t> top = likeliest(logits, TOP);
    std::vector<float> top_logits;
    for (int64_t id : top) top_logits.push_back(logits[id]);
    std::vector<int64_t> greedy;
    for (int i = 0; i < steps; i++) {
        if (i) logits = model.feed({greedy.back()});
        greedy.push_back(likeliest(logits, 1)[0]);
    }
    const double seconds = now() - first;
    std::printf(
        "{\"greedy\": %s, \"top_ids\": %s, \"top_logits\": %s, \"prompt_tokens\": %zu, \"prefill_s\": %.4f,"
        " \"tokens_per_s\": %.2f}\n",
        joined(greedy).c_str(), joined(top).c_str(), joined(top_logits).c_str(), prompt.size(), first - start,
        steps > 1 ? (steps - 1) / seconds : 0.0);
    std::fflush(stdout);
}

}  // namespace

int main(int count, char** given) {
    const int steps = count == 3 ? std::atoi(given[2]) : 0;
    if (steps < 1) fail("usage: et_run MODEL.pte STEPS < prompts (a line: token ids with blanks between)");
    Model model(given[1]);
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        std::vector<int64_t> prompt;
        for (int64_t id; words >> id;) prompt.push_back(id);
        if (!words.eof()) fail("not a line of token ids: " + line);
        answer(model, prompt, steps);
    }
    return 0;
}
