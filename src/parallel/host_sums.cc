// The sums of the host, row by row. In float32 or float64, in one order whatever the threads: sums of a row are added
// up by one thread, from one peer after another. Other element types are refused.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/refuse.h"
#include "parallel/host_moves.h"

namespace longstride::parallel {
namespace {

// Calls body.template operator()<T>() for the type of the sums.
template <class Body>
void with_sums(const RowShape& shape, Body&& body) {
  if (shape.dtype == core::DType::kFloat64) return body.template operator()<double>();
  if (shape.dtype == core::DType::kFloat32) return body.template operator()<float>();
  core::refuse("dtype", "must be float32 or float64 where parts of several ranks are added", core::name(shape.dtype),
               "convert to float32 before");
}

template <class T>
T* row_of(const engine::TensorRef& t, int64_t b, int64_t i, int64_t head) {
  return static_cast<T*>(t.data) + b * t.batch_stride + i * t.len_stride + head * t.head_stride;
}

template <class T>
void add_row(const T* from, int64_t dim, T* to) {
  for (int64_t d = 0; d < dim; ++d) to[d] += from[d];
}

// Gradients of keys beside those of values, into those of the shard.
template <class T>
struct KeySums {
  // `count` rows from `from` on, to the row `row` of the shard and on at a step.
  void add(int64_t place, const T* from, int64_t row, int64_t step, int64_t count) const {
    const int64_t b = place / kv_heads, j = place % kv_heads;
    for (int64_t i = 0; i < count; ++i, row += step, from += 2 * dim) {
      add_row(from, dim, row_of<T>(dk, b, row, j));
      add_row(from + dim, dim, row_of<T>(dv, b, row, j));
    }
  }
  int64_t kv_heads, dim;
  const engine::TensorRef& dk;
  const engine::TensorRef& dv;
};

// The greater share is 1, so that nothing overflows, and a share that underflows is still multiplied: NaN stays NaN.
template <class T>
void merge_row(const T* part_out, T part_lse, int64_t dim, T* out, T& lse) {
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  if (part_lse == kNothing) return;
  if (lse == kNothing) {
    std::copy_n(part_out, dim, out);
    lse = part_lse;
    return;
  }
  const T high = part_lse > lse || std::isnan(part_lse) ? part_lse : lse;
  const T share = std::exp(lse - high), part = std::exp(part_lse - high), sum = share + part;
  for (int64_t d = 0; d < dim; ++d) out[d] = (out[d] * share + part_out[d] * part) / sum;
  lse = high + std::log(sum);
}

}  // namespace

// Calls visit(b, head, row of the shard, row of the gathered queries) for every one: heads in parallel.
template <class Visit>
void HostMoves::for_each_query(const Visit& visit) const {
  const int64_t per_key = heads_ / rank_.call.extent.kv_heads;
  engine::for_each_index(workspace_, rank_.call.extent.batch * heads_, [&](int64_t place, int) {
    for (const Gathering& g : rank_.gathered_of(place / per_key).queries) {
      for (int64_t i = 0; i < g.count; ++i) {
        visit(place / heads_, place % heads_, g.from + i * g.step, place * rank_.gathered.queries + g.to + i);
      }
    }
  });
}

void HostMoves::merge(const void* part_out, const void* part_lse, const engine::TensorRef& out, void* lse) const {
  with_sums(shape_, [&]<class T>() {
    for_each_query([&](int64_t b, int64_t h, int64_t row, int64_t part) {
      merge_row(static_cast<const T*>(part_out) + part * shape_.dim, static_cast<const T*>(part_lse)[part], shape_.dim,
                row_of<T>(out, b, row, h), static_cast<T*>(lse)[(b * heads_ + h) * rows_ + row]);
    });
  });
}

void HostMoves::add_queries(const void* part_dq, const engine::TensorRef& dq) const {
  with_sums(shape_, [&]<class T>() {
    for_each_query([&](int64_t b, int64_t h, int64_t row, int64_t part) {
      add_row(static_cast<const T*>(part_dq) + part * shape_.dim, shape_.dim, row_of<T>(dq, b, row, h));
    });
  });
}

void HostMoves::add_twice_gathered(void* buffer) const {
  const int64_t row = 2 * shape_.dim;
  with_sums(shape_, [&]<class T>() {
    engine::for_each_index(workspace_, rank_.places(), [&](int64_t place, int) {
      T* const rows = static_cast<T*>(buffer) + place * rank_.gathered.keys * row;
      for (const Gathering& g : rank_.gathered_of(place).received) {
        for (int64_t i = 0; i < g.count; ++i) add_row(rows + (g.to + i) * row, row, rows + (g.from + i * g.step) * row);
      }
    });
  });
}

void HostMoves::add_own_keys(const void* buffer, const engine::TensorRef& dk, const engine::TensorRef& dv) const {
  const int64_t key = 2 * shape_.dim;
  with_sums(shape_, [&]<class T>() {
    const KeySums<T> sums{rank_.call.extent.kv_heads, shape_.dim, dk, dv};
    engine::for_each_index(workspace_, rank_.places(), [&](int64_t place, int) {
      const T* const rows = static_cast<const T*>(buffer) + place * rank_.gathered.keys * key;
      for (const Gathering& g : rank_.gathered_of(place).own)
        sums.add(place, rows + g.to * key, g.from, g.step, g.count);
    });
  });
}

void HostMoves::add_returned(const void* from, const engine::TensorRef& dk, const engine::TensorRef& dv) const {
  const int64_t key = 2 * shape_.dim;
  with_sums(shape_, [&]<class T>() {
    const KeySums<T> sums{rank_.call.extent.kv_heads, shape_.dim, dk, dv};
    engine::for_each_index(workspace_, rank_.places(), [&](int64_t place, int) {
      const int32_t c = rank_.call.classes.class_of[place];
      int64_t begin = 0;
      for (const Message& message : rank_.lists.sends) {
        const T* const rows = static_cast<const T*>(from) + (begin + message.place_begin[place]) * key;
        for (int64_t p = message.part_begin[c]; p < message.part_begin[c + 1]; ++p) {
          const Part& part = message.parts[p];
          sums.add(place, rows + part.packed * key, part.local, part.keys.step, part.keys.count);
        }
        begin += message.rows();
      }
    });
  });
}

}  // namespace longstride::parallel
