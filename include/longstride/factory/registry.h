// Types of attention by name. A registry is a value: nothing registers itself, and two registries know nothing of each
// other.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "longstride/factory/options.h"
#include "longstride/nn/attention.h"

namespace longstride {

// How a type is built, and which options it takes: an option that is not listed is refused before build is called.
struct AttentionBuilder {
  std::string summary;              // one line
  std::vector<OptionInfo> options;  // of build
  std::function<DilatedAttention(const NamedOptions&)> build;
  std::vector<OptionInfo> multihead_options;  // of build_multihead
  std::function<MultiheadDilatedAttention(const NamedOptions&)> build_multihead;
};

class Registry {
 public:
  // Throws Error if the name is empty, is "auto", or is taken and `replace` is false, or if a function is missing.
  // After an error the registry is as it was.
  void register_attention(const std::string& name, AttentionBuilder builder, bool replace = false);

  std::vector<std::string> names() const;  // sorted
  bool has(const std::string& name) const { return builders_.contains(name); }
  // Throws Error: "unknown attention type 'x'; one of [...]; did you mean 'y'?".
  const AttentionBuilder& at(const std::string& name) const;

 private:
  std::map<std::string, AttentionBuilder> builders_;
};

// Registers standard, improved, ring, distributed, block_sparse, block_sparse_ring, block_sparse_ring_distributed,
// block_sparse_adaptive. Throws Error if one of the names is taken; then none is registered.
void register_builtin(Registry& registry);

// A registry of these.
Registry builtin_registry();

}  // namespace longstride
