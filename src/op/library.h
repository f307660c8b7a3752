// What every file that registers operators through LibTorch's stable ABI needs of it: definitions of schemas, what of
// them is made from the list of a call's fields, and texts and fields as they are handed over.
#pragma once

#include <torch/csrc/stable/library.h>

#include <initializer_list>
#include <string>
#include <type_traits>

#include "op/tensor.h"

namespace longstride::op {

// The schemas of operators of the namespace longstride, defined as long as this lives; one file's are the library, all
// others' are fragments. As STABLE_TORCH_LIBRARY, which keeps its handle for itself and knows no tags.
class Definitions {
 public:
  enum class Kind { kLibrary, kFragment };
  Definitions(Kind, std::initializer_list<std::string> schemas);
  Definitions(const Definitions&) = delete;
  ~Definitions();

 private:
  TorchLibraryHandle library_ = nullptr;
};

// Owns a text of LibTorch: its own headers before 2.14 forget those that they turn into std::string.
std::string take(StringHandle handle);

template <class Field>
constexpr const char* schema_type() {
  if constexpr (std::is_same_v<Field, std::string>) return "str";
  if constexpr (std::is_same_v<Field, MaybeTensor>) return "Tensor?";
  if constexpr (std::is_same_v<Field, std::optional<double>>) return "float?";
  if constexpr (std::is_same_v<Field, std::optional<int64_t>>) return "SymInt?";
  if constexpr (std::is_same_v<Field, double>) return "float";
  if constexpr (std::is_same_v<Field, bool>) return "bool";
}

// ", str pattern, Tensor? blocks=None, ...". `star` stands between tensors and settings, which are keyword-only by it:
// tensors are not, since torch.library registers no gradient for such ones.
inline std::string call_schema(const std::string& star = ", *") {
  std::string text;
  bool starred = false;
  const Call call;
  Call::fields(call, [&]<class Field>(const std::string& name, const std::string& otherwise, const Field&) {
    const bool may_be_positional = std::is_same_v<Field, std::string> || std::is_same_v<Field, MaybeTensor>;
    if (!may_be_positional && !starred) {
      text += star;
      starred = true;
    }
    text += std::string(", ") + schema_type<Field>() + " " + name + (otherwise.empty() ? "" : "=" + otherwise);
  });
  return text;
}

// A field as LibTorch hands it over, and from that.
template <class Field>
using Handed = std::conditional_t<std::is_same_v<Field, std::string>, StringHandle, Field>;
template <class Field>
Field taken(Handed<Field>& handed) {
  if constexpr (std::is_same_v<Field, std::string>) {
    return take(handed);
  } else {
    return std::move(handed);
  }
}

}  // namespace longstride::op
