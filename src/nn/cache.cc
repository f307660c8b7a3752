// Makes room for a step's keys and values, and drops rows that no later query sees. Called by modules that decode.
#include "nn/cache.h"

#include <ATen/Functions.h>

#include "nn/require.h"

namespace longstride::nn {
namespace {

// Rows beyond those that stay: so many tokens pass before the rows are copied again, at 1/32 of what reading them in
// every step costs.
constexpr int64_t kSpareRows = 64;

// Of a cache between the calls, which may bring more at once.
int64_t usual_rows(const std::optional<Retention>& retention, int64_t capacity) {
  if (!retention || retention->most_kept() > capacity - kSpareRows) return capacity;
  return retention->most_kept() + kSpareRows;
}

at::Tensor empty_rows(const at::Tensor& like, int64_t rows) {
  return at::empty({like.size(0), rows, like.size(2), like.size(3)}, like.options());
}

void check_fit(const KeyValueCache& cache, const at::Tensor& k) {
  const auto fits = [&](const at::Tensor& t) {
    return t.dim() == 4 && t.size(0) == k.size(0) && t.size(2) == k.size(2) && t.size(3) == k.size(3) &&
           t.scalar_type() == k.scalar_type() && t.device() == k.device();
  };
  if (!fits(cache.k) || !fits(cache.v) || cache.k.size(1) != cache.v.size(1)) {
    core::refuse(
        "cache",
        fmt::format("must be [{}, rows, {}, {}] {}", k.size(0), k.size(2), k.size(3), c10::toString(k.scalar_type())),
        fmt::format("{} {}", shape_text(cache.k), c10::toString(cache.k.scalar_type())),
        "make it with make_cache() of this module");
  }
}

// Leaves out the first `gone` positions behind the sinks, some of which may be gone already, in `rows` fresh rows.
void move_rows(KeyValueCache& cache, int64_t sinks, int64_t gone, int64_t rows) {
  const int64_t from = sinks + gone - cache.dropped, held = cache.length - cache.dropped;
  const auto moved = [&](const at::Tensor& old) {
    at::Tensor fresh = empty_rows(old, rows);
    if (gone == 0) {
      fresh.narrow(1, 0, held).copy_(old.narrow(1, 0, held));
    } else {
      fresh.narrow(1, 0, sinks).copy_(old.narrow(1, 0, sinks));
      fresh.narrow(1, sinks, held - from).copy_(old.narrow(1, from, held - from));
    }
    return fresh;
  };
  within_memory("rows of the cache", std::to_string(rows), [&] {
    const at::Tensor k = moved(cache.k), v = moved(cache.v);
    cache.k = k;
    cache.v = v;
    cache.dropped = gone;
  });
}

}  // namespace

KeyValueCache empty_cache(const std::array<int64_t, 4>& shape, const std::optional<Retention>& retention,
                          const at::TensorOptions& like) {
  const auto [batch, capacity, kv_heads, dim] = shape;
  const std::vector<int64_t> rows = {batch, usual_rows(retention, capacity), kv_heads, dim};
  return within_memory("batch x capacity", fmt::format("{} x {}", batch, capacity), [&] {
    return KeyValueCache{.k = at::empty(rows, like), .v = at::empty(rows, like), .capacity = shape[1]};
  });
}

void check_room(const KeyValueCache& cache, const std::optional<Retention>& retention, int64_t len) {
  if (!cache.k.defined() || !cache.v.defined()) {
    core::refuse("cache", "must be made by make_cache()", "an empty one");
  }
  require_dense("cache.k", cache.k);
  require_dense("cache.v", cache.v);
  if (cache.k.dim() != 4 || !cache.k.is_contiguous() || !cache.v.is_contiguous()) {
    core::refuse("cache", "must be made by make_cache()", shape_text(cache.k) + ", or with other strides");
  }
  if (cache.length < 0 || cache.length > cache.capacity - len) {
    core::refuse("cache", fmt::format("must have room for {} more rows", len),
                 fmt::format("{} of {} filled", cache.length, cache.capacity), "make it with a larger capacity");
  }
  const int64_t gone = retention ? retention->outlived(cache.length) : 0;
  if (cache.dropped < 0 || cache.dropped > gone || cache.length - cache.dropped > cache.k.size(1)) {
    core::refuse("cache", fmt::format("must hold what positions from its length {} on see", cache.length),
                 fmt::format("one in {} rows without {} positions", cache.k.size(1), cache.dropped),
                 "go on from where it was, or begin again");
  }
}

int64_t append(KeyValueCache& cache, const std::optional<Retention>& retention, at::Tensor& k, at::Tensor& v) {
  check_fit(cache, k);
  const int64_t len = k.size(1), rows = cache.k.size(1);
  const int64_t gone = retention ? retention->outlived(cache.length) : 0;
  const int64_t wanted = std::max(usual_rows(retention, cache.capacity), cache.length - gone + len);
  if (cache.length - cache.dropped + len > rows || wanted < rows) {
    move_rows(cache, retention ? retention->sinks() : 0, gone, wanted);
  }
  const int64_t held = cache.length - cache.dropped;
  cache.k.narrow(1, held, len).copy_(k);
  cache.v.narrow(1, held, len).copy_(v);
  k = cache.k.narrow(1, 0, held + len);
  v = cache.v.narrow(1, 0, held + len);
  return cache.dropped;
}

}  // namespace longstride::nn
