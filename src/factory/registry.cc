// The table of types: adding a builder under a name, and finding it or the nearest.
#include "longstride/factory/registry.h"

#include "core/refuse.h"

namespace longstride {

void Registry::register_attention(const std::string& name, AttentionBuilder builder, bool replace) {
  if (name.empty() || name == "auto") {
    core::refuse("name", "must be a word other than \"auto\"", "'" + name + "'", "auto chooses among the registered");
  }
  if (!builder.build || !builder.build_multihead) {
    core::refuse("builder", "must have build and build_multihead", "an empty function");
  }
  if (!replace && has(name)) {
    core::refuse("name", "must not be registered twice", "'" + name + "'", "pass replace to take its place");
  }
  builders_[name] = std::move(builder);
}

std::vector<std::string> Registry::names() const {
  std::vector<std::string> all;
  for (const auto& [name, builder] : builders_) all.push_back(name);
  return all;
}

const AttentionBuilder& Registry::at(const std::string& name) const {
  const auto found = builders_.find(name);
  if (found == builders_.end()) core::refuse_unknown("attention type", name, names());
  return found->second;
}

}  // namespace longstride
