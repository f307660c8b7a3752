// Lists the distinct classes of a call: equal documents and equal offsets are one class.
#include "plan/classes.h"

#include <algorithm>
#include <map>
#include <utility>

namespace longstride::plan {
namespace {

int64_t longest_document(const Documents& documents) {
  int64_t longest = 0;
  for (size_t d = 1; d < documents.size(); ++d) longest = std::max(longest, documents[d] - documents[d - 1]);
  return longest;
}

// Empty documents are left out: no position lies in them.
Documents compact(const std::vector<int64_t>& bounds) {
  Documents documents = bounds;
  documents.erase(std::unique(documents.begin(), documents.end()), documents.end());
  return documents;
}

}  // namespace

Classes classify(const Pattern& pattern, const Extent& extent) {
  const auto groups = static_cast<int64_t>(pattern.groups().size());
  // What every KV head samples: -1 where it does not run the group. Equal for all batch rows.
  std::vector<std::vector<int64_t>> offsets(extent.kv_heads, std::vector<int64_t>(groups, -1));
  for (int64_t j = 0; j < extent.kv_heads; ++j) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t offset = pattern.offset(g, j, extent.kv_heads);
      if (pattern.runs(g, j, extent.kv_heads)) offsets[j][g] = offset;
    }
  }

  Classes classes;
  classes.class_of.reserve(extent.batch * extent.kv_heads);
  std::map<int64_t, std::shared_ptr<const Documents>> by_length;
  std::map<std::pair<const Documents*, std::vector<int64_t>>, int32_t> known;
  for (int64_t b = 0; b < extent.batch; ++b) {
    const int64_t length = extent.lengths.empty() ? extent.len_k : extent.lengths[b];
    std::shared_ptr<const Documents>& documents = by_length[length];
    if (!documents) {
      documents = std::make_shared<const Documents>(extent.cu_seqlens.empty() ? compact({0, length})
                                                                              : compact(extent.cu_seqlens));
    }
    const int64_t longest = std::max<int64_t>(1, longest_document(*documents));
    for (int64_t j = 0; j < extent.kv_heads; ++j) {
      const auto [found, inserted] =
          known.try_emplace({documents.get(), offsets[j]}, static_cast<int32_t>(classes.specs.size()));
      if (inserted) {
        ClassSpec spec{.documents = documents};
        for (int64_t g = 0; g < groups; ++g) {
          if (offsets[j][g] < 0) continue;
          const Group& group = pattern.groups()[g];
          spec.samplings.push_back({std::min(group.segment, longest), group.rate, offsets[j][g]});
        }
        classes.specs.push_back(std::move(spec));
      }
      classes.class_of.push_back(found->second);
    }
  }
  return classes;
}

}  // namespace longstride::plan
