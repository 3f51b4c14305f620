// Calls the methods of a .pte without Python or torch, on x86-64 and on ARM (there under user-mode emulation).
//
//   et_run MODEL.pte        talks over its standard streams as ort_run.py does (exporter/replay/protocol.py):
//
// asked   METHOD WANTED COUNT             WANTED: numbers of outputs with commas between, or -
//         then COUNT inputs               0 i64 2 1 37 and a line's end, then the bytes; or: 0 kept METHOD.0
// answers ok SECONDS COUNT                then the wanted outputs as inputs are; the others are kept
//     or  error MESSAGE                   and ends

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::extension::clone_tensor_ptr;
using executorch::extension::make_tensor_ptr;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::EValue;

namespace {

const std::map<std::string, ScalarType> TYPES = {
    {"f32", ScalarType::Float}, {"f16", ScalarType::Half}, {"i64", ScalarType::Long}, {"i32", ScalarType::Int},
    {"i8", ScalarType::Char},   {"u8", ScalarType::Byte},  {"b8", ScalarType::Bool},
};
constexpr int64_t LARGEST = int64_t{1} << 32;  // bytes of one tensor: more is a broken message

[[noreturn]] void fail(const std::string& message) {
    std::cout << "error " << message << std::endl;
    std::exit(1);
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::istringstream line(const char* what) {
    std::string text;
    if (!std::getline(std::cin, text)) fail(std::string("the messages end where ") + what + " should come");
    return std::istringstream(text);
}

// One input, the number of which must be `place`.
TensorPtr input(const std::map<std::string, TensorPtr>& kept, int64_t place) {
    std::istringstream words = line("an input");
    int64_t number = -1, rank = 0;
    std::string kind, key;
    words >> number >> kind;
    if (number != place) fail("input " + std::to_string(number) + " comes where " + std::to_string(place) + " should");
    if (kind == "kept") {
        words >> key;
        const auto found = kept.find(key);
        if (found == kept.end()) fail("nothing was kept as " + key);
        return found->second;
    }
    const auto type = TYPES.find(kind);
    if (type == TYPES.end() || !(words >> rank) || rank < 0) fail("not a tensor: " + words.str());
    int64_t bytes = executorch::runtime::elementSize(type->second);
    std::vector<SizesType> sizes;
    for (int64_t size; rank > 0 && words >> size; rank--) {
        if (size < 0 || (size > 0 && bytes > LARGEST / size)) fail("not a tensor: " + words.str());
        sizes.push_back(static_cast<SizesType>(size));
        bytes *= size;
    }
    if (rank) fail("not a tensor: " + words.str());
    std::vector<uint8_t> data(bytes);
    if (!std::cin.read(reinterpret_cast<char*>(data.data()), bytes)) fail("the messages end within a tensor");
    return make_tensor_ptr(std::move(sizes), std::move(data), {}, {}, type->second);
}

void write(size_t number, const EValue& value) {
    if (value.isInt()) {
        const int64_t whole = value.toInt();
        std::cout << number << " i64 0\n";
        std::cout.write(reinterpret_cast<const char*>(&whole), sizeof whole);
        return;
    }
    if (!value.isTensor()) fail("output " + std::to_string(number) + " is neither a tensor nor a whole number");
    const Tensor& tensor = value.toTensor();
    std::string kind;
    for (const auto& [name, type] : TYPES) {
        if (type == tensor.scalar_type()) kind = name;
    }
    if (kind.empty()) fail("output " + std::to_string(number) + " is of a type that the messages do not have");
    std::cout << number << " " << kind << " " << tensor.dim();
    for (const auto size : tensor.sizes()) std::cout << " " << size;
    std::cout << "\n";
    std::cout.write(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
}

void call(Module& module, std::map<std::string, TensorPtr>& kept, std::istringstream words) {
    std::string method, wanted;
    int64_t count = -1;
    if (!(words >> method >> wanted >> count) || count < 0) fail("not a call: " + words.str());
    std::vector<TensorPtr> tensors;  // they hold what the inputs point at
    std::vector<EValue> inputs;
    for (int64_t place = 0; place < count; place++) {
        tensors.push_back(input(kept, place));
        inputs.emplace_back(tensors.back());
    }
    const double start = now();
    const auto result = module.execute(method, inputs);
    const double seconds = now() - start;
    if (!result.ok()) {
        fail(method + ": ExecuTorch's error " + std::to_string(static_cast<int>(result.error())) + "; what it logs says why");
    }
    std::vector<size_t> numbers;
    for (size_t number = 0; number < result->size(); number++) {
        if (("," + wanted + ",").find("," + std::to_string(number) + ",") != std::string::npos) {
            numbers.push_back(number);
        } else if (result->at(number).isTensor()) {  // copied: the methods share one arena, where the next call writes
            kept[method + "." + std::to_string(number)] = clone_tensor_ptr(result->at(number).toTensor());
        }
    }
    std::cout << "ok " << seconds << " " << numbers.size() << "\n";
    for (const size_t number : numbers) write(number, result->at(number));
    std::cout.flush();
}

}  // namespace

int main(int count, char** given) {
    if (count != 2) fail("usage: et_run MODEL.pte");
    Module module(given[1], Module::LoadMode::Mmap);
    if (module.load() != executorch::runtime::Error::Ok) fail(std::string(given[1]) + ": ExecuTorch does not load it");
    std::map<std::string, TensorPtr> kept;
    for (std::string text; std::getline(std::cin, text);) call(module, kept, std::istringstream(text));
    return 0;
}
