// Checks the lengths of one call. Called by the planner and by the operator before any work.
#include <fmt/format.h>

#include <limits>

#include "core/refuse.h"
#include "longstride/pattern.h"

namespace longstride {
namespace {

std::string number(int64_t value) { return fmt::format("{}", value); }

}  // namespace

void Extent::validate() const {
  if (batch < 0) core::refuse("batch", "must not be negative", number(batch));
  if (heads < 1) core::refuse("heads", "must be positive", number(heads));
  if (kv_heads < 1) core::refuse("kv_heads", "must be positive", number(kv_heads));
  if (heads % kv_heads != 0) {
    core::refuse("heads", fmt::format("must be a multiple of kv_heads ({})", kv_heads), number(heads));
  }
  constexpr int64_t kMostClasses = std::numeric_limits<int32_t>::max();
  if (batch > kMostClasses / kv_heads) {
    core::refuse("batch x kv_heads", fmt::format("must be at most {}", kMostClasses),
                 fmt::format("{} x {}", batch, kv_heads));
  }
  if (len_q < 0) core::refuse("len_q", "must not be negative", number(len_q));
  if (len_k < 0) core::refuse("len_k", "must not be negative", number(len_k));
  if (len_q > len_k) {
    core::refuse("len_q", fmt::format("must be at most len_k ({})", len_k), number(len_q),
                 "give k and v of every position, past ones included");
  }
  if (query_start < 0 || query_start > len_k - len_q) {
    core::refuse("query_start", fmt::format("must be in [0, len_k - len_q] = [0, {}]", len_k - len_q),
                 number(query_start));
  }
  if (!cu_seqlens.empty() && !lengths.empty()) {
    core::refuse("lengths", "cannot be given together with cu_seqlens", fmt::format("{} lengths", lengths.size()),
                 "give one of them");
  }
  if (!cu_seqlens.empty()) {
    if (cu_seqlens.front() != 0) core::refuse("cu_seqlens[0]", "must be 0", number(cu_seqlens.front()));
    for (size_t i = 1; i < cu_seqlens.size(); ++i) {
      if (cu_seqlens[i] < cu_seqlens[i - 1]) {
        core::refuse(fmt::format("cu_seqlens[{}]", i),
                     fmt::format("must be at least cu_seqlens[{}] ({})", i - 1, cu_seqlens[i - 1]),
                     number(cu_seqlens[i]));
      }
    }
    if (cu_seqlens.back() != len_k) {
      core::refuse(fmt::format("cu_seqlens[{}]", cu_seqlens.size() - 1), fmt::format("must be len_k ({})", len_k),
                   number(cu_seqlens.back()), "end the list with the number of keys");
    }
  }
  if (!lengths.empty()) {
    if (std::ssize(lengths) != batch) {
      core::refuse("lengths", fmt::format("must have one entry a batch row ({})", batch), number(std::ssize(lengths)));
    }
    for (size_t b = 0; b < lengths.size(); ++b) {
      if (lengths[b] < 0 || lengths[b] > len_k) {
        core::refuse(fmt::format("lengths[{}]", b), fmt::format("must be in [0, len_k] = [0, {}]", len_k),
                     number(lengths[b]));
      }
    }
  }
}

}  // namespace longstride
