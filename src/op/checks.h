// What is refused before any work, for every kernel: argument, what it must be, what it was, what to do. Templates over
// the two worlds of array.h, so that each text exists once. Shapes may be symbolic (a traced graph): what cannot be
// told from symbols is left to the run.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>

#include "core/refuse.h"
#include "longstride/pattern.h"
#include "longstride/pattern/json.h"
#include "op/call.h"
#include "op/handed_in.h"
#include "op/pattern_text.h"

namespace longstride::op {

// Whether the call wants the gradient of gates.
template <class Tensor, class Size>
bool has_gates(const CallOf<Tensor, Size>& call) {
  return given(call.gates);
}

// Of a call's q, k and v, looked at once.
template <class Size>
struct Views {
  ArrayView<Size> q, k, v;
};
template <class Tensor>
auto views_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  return Views<typename Access<Tensor>::Size>{Access<Tensor>::view(q), Access<Tensor>::view(k),
                                              Access<Tensor>::view(v)};
}

namespace checks {

using core::refuse;

template <class Size>
bool differ(const Size& a, const Size& b) {
  return Compare<Size>::differ(a, b);
}
template <class Size>
bool less(const Size& a, const Size& b) {
  return Compare<Size>::less(a, b);
}

template <class Size>
std::string shape(const ArrayView<Size>& t) {
  return "shape " + text(t.sizes);
}
template <class Size>
std::string dtype_and_shape(const ArrayView<Size>& t) {
  return fmt::format("{} of {}", toString(t.dtype), shape(t));
}

// What needs no tensor: checks.cc.
void check_settings(const Settings&);
void check_without_seed(const Settings&);
void check_heads(std::optional<int64_t> kv_heads, const Pattern&);  // heads that are a symbol are left to the run
void check_one_list(const Pattern&);
void check_gradient_of_slopes(bool wanted);

// check(name, view) of every tensor of a call.
template <class Tensor, class Size, class Check>
void each_tensor(const Views<Size>& of, const CallOf<Tensor, Size>& call, Check check) {
  check("q", of.q);
  check("k", of.k);
  check("v", of.v);
  CallOf<Tensor, Size>::fields(call, [&]<class Field>(const char* name, const char*, const Field& field) {
    if constexpr (std::is_same_v<Field, std::optional<Tensor>>) {
      if (given(field)) check(name, Access<Tensor>::view(*field));
    }
  });
}

// Without the rows of a list that lies with q on a GPU, which to read would wait (device_list.h), and those without
// numbers (a traced graph).
template <class Tensor, class Size>
std::shared_ptr<const Pattern> pattern_of_call(const ArrayView<Size>& q, const CallOf<Tensor, Size>& call) {
  if (!given(call.blocks)) return pattern_of(call.pattern);
  const ArrayView<Size> blocks = Access<Tensor>::view(*call.blocks);
  if (blocks.dtype != ScalarType::Int || blocks.dim() != 2 || differ(blocks.sizes[1], Size(4)))
    refuse("blocks", "must be int32 [rows, 4]: batch row or -1, KV head or -1, query block, key block",
           dtype_and_shape(blocks));
  const bool here = blocks.has_data && !(blocks.place.is_cuda() && q.place.is_cuda());
  return std::make_shared<const Pattern>(
      pattern_from_json(call.pattern, here ? Access<Tensor>::blocks(*call.blocks) : std::vector<Block>()));
}

template <class Size>
void check_dim_contiguous(const char* name, const ArrayView<Size>& t) {
  for (const Size& size : t.sizes)
    if (less(size, Size(1))) return;
  if (!less(t.sizes[3], Size(2)) && differ(t.strides[3], Size(1)))
    refuse(name, "must have its last dimension (dim) contiguous", "strides " + text(t.strides),
           fmt::format("no copy is made in silence: pass {}.contiguous()", name));
}

template <class Size>
void check_tensors(const Views<Size>& of) {
  const ArrayView<Size>&q = of.q, &k = of.k, &v = of.v;
  using Named = std::pair<const char*, const ArrayView<Size>*>;
  for (const auto& [name, t] : {Named{"q", &q}, Named{"k", &k}, Named{"v", &v}})
    if (t->dim() != 4) refuse(name, "must have the 4 dimensions [batch, len, heads, dim]", shape(*t));
  if (!is_our_dtype(q.dtype))
    refuse("q", "must be float32, bfloat16, float16 or float64", toString(q.dtype), "convert it with .to()");
  for (const auto& [name, t] : {Named{"k", &k}, Named{"v", &v}}) {
    if (t->dtype != q.dtype)
      refuse(name, fmt::format("must have the dtype of q, {}", toString(q.dtype)), toString(t->dtype),
             "convert one of them with .to()");
    if (t->place != q.place)
      refuse(name, fmt::format("must be on the device of q, {}", text(q.place)), text(t->place),
             "move one of them with .to()");
  }
  for (size_t d = 0; d < 4; ++d)
    if (differ(k.sizes[d], v.sizes[d])) refuse("v", "must have the shape of k, " + text(k.sizes), shape(v));
  if (differ(q.sizes[0], k.sizes[0])) refuse("k", "must have the batch of q, " + text(q.sizes), shape(k));
  if (differ(q.sizes[3], k.sizes[3])) refuse("k", "must have the dim of q, " + text(q.sizes), shape(k));
  if (less(q.sizes[3], Size(1))) refuse("q", "must have a dim of at least 1", shape(q));
  if (less(q.sizes[2], Size(1))) refuse("q", "must have at least one head", shape(q));
  if (less(k.sizes[2], Size(1))) refuse("k", "must have at least one head", shape(k));
  if (differ(Size(q.sizes[2] % k.sizes[2]), Size(0)))
    refuse("heads of q", "must be a multiple of the heads of k and v, " + text(k.sizes[2]), text(q.sizes[2]),
           "every KV head serves heads / kv_heads query heads");
  check_dim_contiguous("q", q);
  check_dim_contiguous("k", k);
  check_dim_contiguous("v", v);
}

template <class Tensor, class Size>
void check_lengths(const ArrayView<Size>& q, const ArrayView<Size>& k, const CallOf<Tensor, Size>& call) {
  const Size &len_q = q.sizes[1], &len_k = k.sizes[1];
  if (!call.query_start) {
    if (differ(len_q, len_k))
      refuse("len of q", "must equal the len of k, " + text(len_k) + ", when query_start is not given", text(len_q),
             "give query_start, the position of query 0 among the keys");
  } else if (less(*call.query_start, Size(0)) || less(Size(len_k - len_q), *call.query_start)) {
    refuse("query_start",
           fmt::format("must be in [0, len_k - len_q] with len_q {} and len_k {}", text(len_q), text(len_k)),
           text(*call.query_start), "every query stands at a position that has a key");
  }
  if (given(call.cu_seqlens) && given(call.lengths))
    refuse("cu_seqlens and lengths", "must not be given together", "both",
           "lengths makes every batch row one document, cu_seqlens packs several into each");
  const auto list_of = [](const char* name, const Tensor& tensor) {
    const ArrayView<Size> list = Access<Tensor>::view(tensor);
    if ((list.dtype != ScalarType::Int && list.dtype != ScalarType::Long) || list.dim() != 1)
      refuse(name, "must be an int32 or int64 tensor of one dimension", dtype_and_shape(list));
    return list;
  };
  // An empty list is what Extent takes for "not given".
  if (given(call.cu_seqlens) && less(list_of("cu_seqlens", *call.cu_seqlens).sizes[0], Size(1)))
    refuse("cu_seqlens", "must have at least its first entry, 0", "an empty list", "leave it out for one document");
  if (!given(call.lengths)) return;
  const ArrayView<Size> lengths = list_of("lengths", *call.lengths);
  if (differ(lengths.sizes[0], q.sizes[0]))
    refuse("lengths", fmt::format("must have one entry per batch row, {}", text(q.sizes[0])),
           fmt::format("{} entries", text(lengths.sizes[0])));
}

template <class Tensor, class Size>
void check_dropout_seed(const ArrayView<Size>& q, const CallOf<Tensor, Size>& call) {
  if (!given(call.dropout_seed)) return check_without_seed(call);
  const ArrayView<Size> seed = Access<Tensor>::view(*call.dropout_seed);
  Size numel(1);
  for (const Size& size : seed.sizes) numel = numel * size;
  if (seed.dtype != ScalarType::Long || differ(numel, Size(1)))
    refuse("dropout_seed", "must be one int64", dtype_and_shape(seed));
  if (seed.place != q.place) refuse("dropout_seed", "must be on the device of q, " + text(q.place), text(seed.place));
}

template <class Tensor, class Size>
void check_gates(const ArrayView<Size>& q, const Pattern& pattern, const CallOf<Tensor, Size>& call) {
  if (!has_gates(call)) return;
  if (!given(call.blocks))
    refuse("gates", "must belong to the rows of blocks", "no blocks", "give the list of blocks beside the pattern");
  check_one_list(pattern);
  const ArrayView<Size> gates = Access<Tensor>::view(*call.gates), blocks = Access<Tensor>::view(*call.blocks);
  const ScalarType dtype = lse_dtype(q.dtype);
  if (gates.dtype != dtype || gates.dim() != 1 || differ(gates.sizes[0], blocks.sizes[0]))
    refuse("gates",
           fmt::format("must be {} with one entry a row of blocks, {}", toString(dtype), text(blocks.sizes[0])),
           dtype_and_shape(gates));
  if (gates.place != q.place) refuse("gates", "must be on the device of q, " + text(q.place), text(gates.place));
}

// Whether they are finite is told where their numbers are.
template <class Tensor, class Size>
void check_slopes(const ArrayView<Size>& q, const CallOf<Tensor, Size>& call) {
  if (!given(call.alibi_slopes)) return;
  const ArrayView<Size> slopes = Access<Tensor>::view(*call.alibi_slopes);
  if (slopes.dtype != ScalarType::Float || slopes.dim() != 1 || differ(slopes.sizes[0], q.sizes[2]))
    refuse("alibi_slopes", fmt::format("must be Float with one entry a query head, {}", text(q.sizes[2])),
           dtype_and_shape(slopes), "cast it with .float(), repeat or cut it to the heads of q");
  if (slopes.place != q.place)
    refuse("alibi_slopes", "must be on the device of q, " + text(q.place), text(slopes.place), "move it with .to()");
}

// A tensor of the backward, whose sizes are those of `axes` of q.
template <class Size, size_t n>
void check_like(const char* name, const ArrayView<Size>& t, const ArrayView<Size>& q,
                const std::array<size_t, n>& axes_of_q, ScalarType dtype) {
  check_handed_in(name, t);
  std::vector<Size> expected;
  for (const size_t axis : axes_of_q) expected.push_back(q.sizes[axis]);
  bool same = t.sizes.size() == n;
  for (size_t i = 0; same && i < n; ++i) same = !differ(t.sizes[i], expected[i]);
  if (!same) refuse(name, "must have the shape " + text(std::span<const Size>(expected)), shape(t));
  if (t.dtype != dtype) refuse(name, fmt::format("must be {}", toString(dtype)), toString(t.dtype));
  if (t.place != q.place) refuse(name, "must be on the device of q, " + text(q.place), text(t.place));
}

// What of a call no rank of several can do. `where`: "in cp_attention", say.
template <class Tensor, class Size>
void check_sharded(const CallOf<Tensor, Size>& call, const std::string& where) {
  if (call.query_start)
    refuse("query_start", "must be unset " + where, text(*call.query_start), "decode with attention(), on one rank");
}

}  // namespace checks

// Checks everything that does not need the numbers of the lengths, nor of a list that lies with q on a GPU, and gives
// the pattern, without that list. Throws Error.
template <class Tensor, class Size>
std::shared_ptr<const Pattern> check_forward(const Views<Size>& of, const CallOf<Tensor, Size>& call) {
  checks::each_tensor(of, call, [](const char* name, const auto& t) { check_handed_in(name, t); });
  std::shared_ptr<const Pattern> pattern = checks::pattern_of_call(of.q, call);
  checks::check_tensors(of);
  checks::check_lengths(of.q, of.k, call);
  checks::check_settings(call);
  checks::check_dropout_seed(of.q, call);
  checks::check_heads(Compare<Size>::number(of.k.sizes[2]), *pattern);
  checks::check_gates(of.q, *pattern, call);
  checks::check_slopes(of.q, call);
  return pattern;
}

// The same, and what came out of the forward.
template <class Tensor, class Size>
std::shared_ptr<const Pattern> check_backward(const Views<Size>& of, const BackwardInputsOf<Tensor>& in,
                                              const CallOf<Tensor, Size>& call) {
  std::shared_ptr<const Pattern> pattern = check_forward(of, call);
  const ArrayView<Size>& q = of.q;
  const auto view = [](const Tensor& t) { return Access<Tensor>::view(t); };
  constexpr std::array<size_t, 4> kOut = {0, 1, 2, 3};
  constexpr std::array<size_t, 3> kLse = {0, 2, 1};
  checks::check_like("d_out", view(in.d_out), q, kOut, q.dtype);
  checks::check_like("out", view(in.out), q, kOut, q.dtype);
  checks::check_like("lse", view(in.lse), q, kLse, lse_dtype(q.dtype));
  if (given(in.d_lse)) checks::check_like("d_lse", view(*in.d_lse), q, kLse, lse_dtype(q.dtype));
  return pattern;
}

// Whether the sizes, cu_seqlens and lengths of a call have numbers.
template <class Tensor, class Size>
bool has_numbers(const Views<Size>& of, const CallOf<Tensor, Size>& call) {
  const auto known = [](const Size& size) { return Compare<Size>::number(size).has_value(); };
  const auto all = [&](const ArrayView<Size>& t) { return std::ranges::all_of(t.sizes, known); };
  const auto has_data = [](const std::optional<Tensor>& t) { return !given(t) || Access<Tensor>::view(*t).has_data; };
  return all(of.q) && all(of.k) && (!call.query_start || known(*call.query_start)) && has_data(call.cu_seqlens) &&
         has_data(call.lengths);
}

// The lengths of a checked call that has numbers, validated: on the host they are read where they are, from a device
// they are copied, which waits for it.
template <class Tensor, class Size>
Extent extent_of(const Views<Size>& of, const CallOf<Tensor, Size>& call) {
  const auto number = [](const Size& size) { return Compare<Size>::number(size).value(); };
  Extent extent;
  extent.batch = number(of.q.sizes[0]);
  extent.heads = number(of.q.sizes[2]);
  extent.kv_heads = number(of.k.sizes[2]);
  extent.len_q = number(of.q.sizes[1]);
  extent.len_k = number(of.k.sizes[1]);
  if (call.query_start) extent.query_start = number(*call.query_start);
  if (given(call.cu_seqlens)) extent.cu_seqlens = Access<Tensor>::numbers(*call.cu_seqlens);
  if (given(call.lengths)) extent.lengths = Access<Tensor>::numbers(*call.lengths);
  extent.validate();
  return extent;
}

}  // namespace longstride::op
