// What every file that registers operators through LibTorch's stable ABI needs of it: definitions of schemas, and texts
// among the arguments.
#pragma once

#include <torch/csrc/stable/library.h>

#include <initializer_list>
#include <string>

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

}  // namespace longstride::op
