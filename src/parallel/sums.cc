// The sums, row by row.
#include "parallel/sums.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/refuse.h"

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

template <class Body>
void for_each_index(const Moving& m, int64_t count, const Body& body) {
  if (m.parallel_for) {
    m.parallel_for(count, [&](int64_t index, int) { body(index); });
  } else {
    for (int64_t index = 0; index < count; ++index) body(index);
  }
}

template <class T>
T* row_of(const engine::TensorRef& t, int64_t b, int64_t i, int64_t head) {
  return static_cast<T*>(t.data) + b * t.batch_stride + i * t.len_stride + head * t.head_stride;
}

template <class T>
void add_row(const T* from, int64_t dim, T* to) {
  for (int64_t d = 0; d < dim; ++d) to[d] += from[d];
}

// Calls visit(b, head, row of the shard, row of the gathered queries) for every one: heads in parallel.
template <class Visit>
void for_each_query(const Moving& m, int64_t heads, const Visit& visit) {
  const int64_t per_key = heads / m.call.extent.kv_heads;
  for_each_index(m, m.call.extent.batch * heads, [&](int64_t place) {
    const GatheredClass& of_place = m.gathered.classes[m.call.classes.class_of[place / per_key]];
    for (const Gathering& g : of_place.queries) {
      for (int64_t i = 0; i < g.count; ++i) {
        visit(place / heads, place % heads, g.from + i * g.step, place * m.gathered.queries + g.to + i);
      }
    }
  });
}

template <class Visit>
void for_each_place(const Moving& m, const Visit& visit) {
  for_each_index(m, m.call.extent.batch * m.call.extent.kv_heads,
                 [&](int64_t place) { visit(place, m.gathered.classes[m.call.classes.class_of[place]]); });
}

// Gradients of keys beside those of values, into those of the shard.
template <class T>
struct KeySums {
  // `count` rows from `from` on, to the row `row` of the shard and on at a step.
  void add(int64_t place, const T* from, int64_t row, int64_t step, int64_t count) const {
    const int64_t b = place / m.call.extent.kv_heads, j = place % m.call.extent.kv_heads, dim = m.shape.dim;
    for (int64_t i = 0; i < count; ++i, row += step, from += 2 * dim) {
      add_row(from, dim, row_of<T>(dk, b, row, j));
      add_row(from + dim, dim, row_of<T>(dv, b, row, j));
    }
  }
  const Moving& m;
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

void merge(const Moving& m, int64_t heads, const void* part_out, const void* part_lse, const engine::TensorRef& out,
           void* lse, int64_t rows) {
  with_sums(m.shape, [&]<class T>() {
    for_each_query(m, heads, [&](int64_t b, int64_t h, int64_t row, int64_t part) {
      merge_row(static_cast<const T*>(part_out) + part * m.shape.dim, static_cast<const T*>(part_lse)[part],
                m.shape.dim, row_of<T>(out, b, row, h), static_cast<T*>(lse)[(b * heads + h) * rows + row]);
    });
  });
}

void add_queries(const Moving& m, int64_t heads, const void* part_dq, const engine::TensorRef& dq) {
  with_sums(m.shape, [&]<class T>() {
    for_each_query(m, heads, [&](int64_t b, int64_t h, int64_t row, int64_t part) {
      add_row(static_cast<const T*>(part_dq) + part * m.shape.dim, m.shape.dim, row_of<T>(dq, b, row, h));
    });
  });
}

void add_twice_gathered(const Moving& m, void* buffer) {
  const int64_t row = 2 * m.shape.dim;
  with_sums(m.shape, [&]<class T>() {
    for_each_place(m, [&](int64_t place, const GatheredClass& of_place) {
      T* const rows = static_cast<T*>(buffer) + place * m.gathered.keys * row;
      for (const Gathering& g : of_place.received) {
        for (int64_t i = 0; i < g.count; ++i) add_row(rows + (g.to + i) * row, row, rows + (g.from + i * g.step) * row);
      }
    });
  });
}

void add_own_keys(const Moving& m, const void* buffer, const engine::TensorRef& dk, const engine::TensorRef& dv) {
  with_sums(m.shape, [&]<class T>() {
    const KeySums<T> sums{m, dk, dv};
    for_each_place(m, [&](int64_t place, const GatheredClass& of_place) {
      const T* const rows = static_cast<const T*>(buffer) + place * m.gathered.keys * 2 * m.shape.dim;
      for (const Gathering& g : of_place.own) sums.add(place, rows + g.to * 2 * m.shape.dim, g.from, g.step, g.count);
    });
  });
}

void add_returned(const Moving& m, const std::vector<Message>& sends, const void* from, const engine::TensorRef& dk,
                  const engine::TensorRef& dv) {
  with_sums(m.shape, [&]<class T>() {
    const KeySums<T> sums{m, dk, dv};
    for_each_place(m, [&](int64_t place, const GatheredClass&) {
      const int32_t c = m.call.classes.class_of[place];
      int64_t begin = 0;
      for (const Message& message : sends) {
        const T* const rows = static_cast<const T*>(from) + (begin + message.place_begin[place]) * 2 * m.shape.dim;
        for (int64_t p = message.part_begin[c]; p < message.part_begin[c + 1]; ++p) {
          const Part& part = message.parts[p];
          sums.add(place, rows + part.packed * 2 * m.shape.dim, part.local, part.keys.step, part.keys.count);
        }
        begin += message.rows();
      }
    });
  });
}

}  // namespace longstride::parallel
