// The refusals of one call: argument, what it must be, what it was, what to do.
#include "op/checks.h"

#include <ATen/core/Formatting.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "core/refuse.h"
#include "longstride/pattern/json.h"
#include "op/gates.h"
#include "op/handed_in.h"
#include "op/pattern_text.h"

namespace longstride::op {
namespace {

using at::Tensor;
using core::refuse;

// Symbols that cannot be compared now pass here: the kernel that runs sees numbers.
bool certain(const c10::SymBool& condition) { return condition.guard_or_false(__FILE__, __LINE__); }
bool differ(const c10::SymInt& a, const c10::SymInt& b) { return certain(a.sym_ne(b)); }

template <class T>
std::string text(const T& value) {
  std::ostringstream stream;
  stream << value;
  return stream.str();
}

std::string shape(const Tensor& t) { return "shape " + text(t.sym_sizes()); }

bool given(const std::optional<Tensor>& t) { return t && t->defined(); }

std::shared_ptr<const Pattern> pattern_of_call(const Call& call) {
  if (!given(call.blocks)) return pattern_of(call.pattern);
  const Tensor& blocks = *call.blocks;
  if (blocks.scalar_type() != at::kInt || blocks.dim() != 2 || differ(blocks.sym_size(1), 4))
    refuse("blocks", "must be int32 [rows, 4]: batch row or -1, KV head or -1, query block, key block",
           fmt::format("{} of {}", at::toString(blocks.scalar_type()), shape(blocks)));
  return std::make_shared<const Pattern>(
      pattern_from_json(call.pattern, has_data(blocks) ? read_blocks(blocks) : std::vector<Block>()));
}

void check_dimensions(const char* name, const Tensor& t) {
  if (t.dim() != 4) refuse(name, "must have the 4 dimensions [batch, len, heads, dim]", shape(t));
}

void check_dim_contiguous(const char* name, const Tensor& t) {
  if (certain(t.sym_size(3).sym_le(1)) || certain(t.sym_numel().sym_eq(0))) return;
  if (differ(t.sym_stride(3), 1))
    refuse(name, "must have its last dimension (dim) contiguous", "strides " + text(t.sym_strides()),
           fmt::format("no copy is made in silence: pass {}.contiguous()", name));
}

void check_tensors(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_dimensions("q", q);
  check_dimensions("k", k);
  check_dimensions("v", v);
  if (!has_our_dtype(q))
    refuse("q", "must be float32, bfloat16, float16 or float64", at::toString(q.scalar_type()),
           "convert it with .to()");
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"k", k}, {"v", v}}) {
    if (t.scalar_type() != q.scalar_type())
      refuse(name, fmt::format("must have the dtype of q, {}", at::toString(q.scalar_type())),
             at::toString(t.scalar_type()), "convert one of them with .to()");
    if (t.device() != q.device())
      refuse(name, fmt::format("must be on the device of q, {}", q.device().str()), t.device().str(),
             "move one of them with .to()");
  }
  for (int64_t d = 0; d < 4; ++d)
    if (differ(k.sym_size(d), v.sym_size(d))) refuse("v", "must have the shape of k, " + text(k.sym_sizes()), shape(v));
  if (differ(q.sym_size(0), k.sym_size(0))) refuse("k", "must have the batch of q, " + text(q.sym_sizes()), shape(k));
  if (differ(q.sym_size(3), k.sym_size(3))) refuse("k", "must have the dim of q, " + text(q.sym_sizes()), shape(k));
  if (certain(q.sym_size(3).sym_lt(1))) refuse("q", "must have a dim of at least 1", shape(q));
  if (certain(q.sym_size(2).sym_lt(1))) refuse("q", "must have at least one head", shape(q));
  if (certain(k.sym_size(2).sym_lt(1))) refuse("k", "must have at least one head", shape(k));
  if (differ(q.sym_size(2) % k.sym_size(2), 0))
    refuse("heads of q", "must be a multiple of the heads of k and v, " + text(k.sym_size(2)), text(q.sym_size(2)),
           "every KV head serves heads / kv_heads query heads");
  check_dim_contiguous("q", q);
  check_dim_contiguous("k", k);
  check_dim_contiguous("v", v);
}

void check_lengths(const Tensor& q, const Tensor& k, const Call& call) {
  const c10::SymInt len_q = q.sym_size(1), len_k = k.sym_size(1);
  if (!call.query_start) {
    if (differ(len_q, len_k))
      refuse("len of q", "must equal the len of k, " + text(len_k) + ", when query_start is not given", text(len_q),
             "give query_start, the position of query 0 among the keys");
  } else if (certain(call.query_start->sym_lt(0)) || certain(call.query_start->sym_gt(len_k - len_q))) {
    refuse("query_start",
           fmt::format("must be in [0, len_k - len_q] with len_q {} and len_k {}", text(len_q), text(len_k)),
           text(*call.query_start), "every query stands at a position that has a key");
  }
  if (given(call.cu_seqlens) && given(call.lengths))
    refuse("cu_seqlens and lengths", "must not be given together", "both",
           "lengths makes every batch row one document, cu_seqlens packs several into each");
  for (const auto& [name, list] : {std::pair<const char*, const std::optional<Tensor>&>{"cu_seqlens", call.cu_seqlens},
                                   {"lengths", call.lengths}}) {
    if (given(list) && ((list->scalar_type() != at::kInt && list->scalar_type() != at::kLong) || list->dim() != 1))
      refuse(name, "must be an int32 or int64 tensor of one dimension",
             fmt::format("{} of {}", at::toString(list->scalar_type()), shape(*list)));
  }
  // An empty list is what Extent takes for "not given".
  if (given(call.cu_seqlens) && certain(call.cu_seqlens->sym_size(0).sym_eq(0)))
    refuse("cu_seqlens", "must have at least its first entry, 0", "an empty list", "leave it out for one document");
  if (given(call.lengths) && differ(call.lengths->sym_size(0), q.sym_size(0)))
    refuse("lengths", fmt::format("must have one entry per batch row, {}", text(q.sym_size(0))),
           fmt::format("{} entries", text(call.lengths->sym_size(0))));
}

void check_options(const Tensor& q, const Call& call) {
  if (call.scale && !std::isfinite(*call.scale)) refuse("scale", "must be finite", fmt::format("{}", *call.scale));
  if (!(call.dropout_p >= 0 && call.dropout_p < 1))
    refuse("dropout_p", "must be in [0, 1)", fmt::format("{}", call.dropout_p));
  const bool has_seed = given(call.dropout_seed);
  if (call.dropout_p > 0 && !has_seed)
    refuse("dropout_seed", "must be given when dropout_p > 0", "none",
           "draw one with draw_dropout_seed(device), or torch.randint(2**63 - 1, (), dtype=torch.int64)");
  if (!has_seed) return;
  const Tensor& seed = *call.dropout_seed;
  if (seed.scalar_type() != at::kLong || differ(seed.sym_numel(), 1))
    refuse("dropout_seed", "must be one int64", fmt::format("{} of {}", at::toString(seed.scalar_type()), shape(seed)));
  if (seed.device() != q.device())
    refuse("dropout_seed", "must be on the device of q, " + q.device().str(), seed.device().str());
}

// What the pattern needs of the heads; heads are never symbolic in practice, but a symbol is left to the run.
void check_heads(const Tensor& k, const Pattern& pattern) {
  const std::optional<int64_t> kv_heads = k.sym_size(2).maybe_as_int();
  if (!kv_heads) return;
  const auto groups = static_cast<int64_t>(pattern.groups().size());
  if (pattern.options().mixing == Mixing::kHeadPartition && *kv_heads < groups)
    refuse("heads of k and v", fmt::format("must be at least the number of groups, {}, under head_partition", groups),
           fmt::format("{}", *kv_heads), "use fewer groups or mixing \"joint\", which has no such limit");
  // A table of the wrong size is refused when it is read.
  if (groups > 0) pattern.offset(0, 0, *kv_heads);
}

void check_gates(const Tensor& q, const Pattern& pattern, const Call& call) {
  if (!has_gates(call)) return;
  const Tensor& gates = *call.gates;
  if (!given(call.blocks))
    refuse("gates", "must belong to the rows of blocks", "no blocks", "give the list of blocks beside the pattern");
  const auto lists = std::count_if(pattern.blocks().begin(), pattern.blocks().end(), [](const BlockPattern& block) {
    return std::holds_alternative<BlockList>(block.rule());
  });
  if (lists != 1) refuse("gates", "must belong to the pattern's one list", fmt::format("{} lists", lists));
  if (gates.scalar_type() != lse_dtype(q) || gates.dim() != 1 || differ(gates.sym_size(0), call.blocks->sym_size(0)))
    refuse("gates",
           fmt::format("must be {} with one entry a row of blocks, {}", at::toString(lse_dtype(q)),
                       text(call.blocks->sym_size(0))),
           fmt::format("{} of {}", at::toString(gates.scalar_type()), shape(gates)));
  if (gates.device() != q.device())
    refuse("gates", "must be on the device of q, " + q.device().str(), gates.device().str());
}

void check_like(const char* name, const Tensor& t, const Tensor& q, at::IntArrayRef axes_of_q, at::ScalarType dtype) {
  check_handed_in(name, t);
  bool same = t.dim() == static_cast<int64_t>(axes_of_q.size());
  std::vector<c10::SymInt> expected;
  for (const int64_t axis : axes_of_q) expected.push_back(q.sym_size(axis));
  for (size_t i = 0; same && i < expected.size(); ++i) same = !differ(t.sym_size(static_cast<int64_t>(i)), expected[i]);
  if (!same) refuse(name, "must have the shape " + text(c10::SymIntArrayRef(expected)), shape(t));
  if (t.scalar_type() != dtype)
    refuse(name, fmt::format("must be {}", at::toString(dtype)), at::toString(t.scalar_type()));
  if (t.device() != q.device()) refuse(name, "must be on the device of q, " + q.device().str(), t.device().str());
}

// The entries of cu_seqlens or lengths.
std::vector<int64_t> read_numbers(const Tensor& list) {
  const bool as_is = list.is_cpu() && list.scalar_type() == at::kLong && list.is_contiguous();
  const Tensor host = as_is ? list : list.to(at::kCPU, at::kLong).contiguous();
  const auto* first = host.const_data_ptr<int64_t>();
  return {first, first + host.numel()};
}

// check(name, tensor) of every tensor of a call.
template <class Check>
void each_tensor(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call, Check check) {
  check("q", q);
  check("k", k);
  check("v", v);
  Call::fields(call, [&]<class Field>(const char* name, const char*, const Field& field) {
    if constexpr (std::is_same_v<Field, std::optional<Tensor>>) {
      if (given(field)) check(name, *field);
    }
  });
}

}  // namespace

void check_all_dense(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  each_tensor(q, k, v, call, check_dense);
}

void check_all_dense(const BackwardInputs& in, const Call& call) {
  check_all_dense(in.q, in.k, in.v, call);
  check_dense("d_out", in.d_out);
  check_dense("out", in.out);
  check_dense("lse", in.lse);
  if (given(in.d_lse)) check_dense("d_lse", *in.d_lse);
}

std::shared_ptr<const Pattern> check_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  each_tensor(q, k, v, call, check_handed_in);
  std::shared_ptr<const Pattern> pattern = pattern_of_call(call);
  check_tensors(q, k, v);
  check_lengths(q, k, call);
  check_options(q, call);
  check_heads(k, *pattern);
  check_gates(q, *pattern, call);
  return pattern;
}

std::shared_ptr<const Pattern> check_backward(const BackwardInputs& in, const Call& call) {
  std::shared_ptr<const Pattern> pattern = check_forward(in.q, in.k, in.v, call);
  check_like("d_out", in.d_out, in.q, {0, 1, 2, 3}, in.q.scalar_type());
  check_like("out", in.out, in.q, {0, 1, 2, 3}, in.q.scalar_type());
  check_like("lse", in.lse, in.q, {0, 2, 1}, lse_dtype(in.q));
  if (given(in.d_lse)) check_like("d_lse", *in.d_lse, in.q, {0, 2, 1}, lse_dtype(in.q));
  return pattern;
}

Extent extent_of(const Tensor& q, const Tensor& k, const Call& call) {
  const auto number = [](const c10::SymInt& s) { return s.guard_int(__FILE__, __LINE__); };
  Extent extent;
  extent.batch = number(q.sym_size(0));
  extent.heads = number(q.sym_size(2));
  extent.kv_heads = number(k.sym_size(2));
  extent.len_q = number(q.sym_size(1));
  extent.len_k = number(k.sym_size(1));
  if (call.query_start) extent.query_start = number(*call.query_start);
  if (given(call.cu_seqlens)) extent.cu_seqlens = read_numbers(*call.cu_seqlens);
  if (given(call.lengths)) extent.lengths = read_numbers(*call.lengths);
  extent.validate();
  return extent;
}

bool has_numbers(const Tensor& q, const Tensor& k, const Call& call) {
  const auto all = [](at::ArrayRef<c10::SymInt> list) {
    for (const c10::SymInt& s : list)
      if (!s.maybe_as_int()) return false;
    return true;
  };
  return all(q.sym_sizes()) && all(k.sym_sizes()) && (!call.query_start || call.query_start->maybe_as_int()) &&
         (!given(call.cu_seqlens) || has_data(*call.cu_seqlens)) && (!given(call.lengths) || has_data(*call.lengths));
}

bool has_gates(const Call& call) { return given(call.gates); }

bool has_our_dtype(const Tensor& t) {
  const at::ScalarType dtype = t.scalar_type();
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16;
}

core::DType dtype_of(const Tensor& q) {
  switch (q.scalar_type()) {
    case at::kDouble:
      return core::DType::kFloat64;
    case at::kHalf:
      return core::DType::kFloat16;
    case at::kBFloat16:
      return core::DType::kBFloat16;
    default:
      return core::DType::kFloat32;
  }
}

at::ScalarType lse_dtype(const Tensor& q) { return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace longstride::op
