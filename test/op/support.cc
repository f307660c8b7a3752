// Tensors of cases and the peer.
#include "test/op/support.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "oracle/philox.h"

namespace longstride::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

at::Tensor dense(const std::vector<double>& values, at::IntArrayRef shape, at::ScalarType dtype) {
  return torch::tensor(at::ArrayRef<double>(values), at::kDouble).reshape(shape).to(dtype);
}

// 0: contiguous, 1: padded rows, 2: heads outermost; the gaps hold NaN.
at::Tensor laid_out(const at::Tensor& x, int layout) {
  if (layout == 0) return x.clone();
  const auto options = x.options();
  if (layout == 1) {
    at::Tensor wide = torch::full({x.size(0), x.size(1) + 1, x.size(2) + 2, x.size(3) + 3}, kNan, options);
    at::Tensor view = wide.narrow(1, 1, x.size(1)).narrow(2, 1, x.size(2)).narrow(3, 2, x.size(3));
    view.copy_(x);
    return view;
  }
  at::Tensor view = torch::full({x.size(0), x.size(2), x.size(1), x.size(3)}, kNan, options).transpose(1, 2);
  view.copy_(x);
  return view;
}

}  // namespace

at::ScalarType scalar_type(core::DType dtype) {
  switch (dtype) {
    case core::DType::kFloat64:
      return at::kDouble;
    case core::DType::kBFloat16:
      return at::kBFloat16;
    case core::DType::kFloat16:
      return at::kHalf;
    default:
      return at::kFloat;
  }
}

std::vector<double> values(const at::Tensor& t) {
  const at::Tensor flat = t.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

CallTensors tensors_of(const Case& c) {
  const oracle::Options& o = c.options;
  const at::ScalarType dtype = scalar_type(c.dtype);
  const int layout = c.choice[kLayout];
  CallTensors t;
  t.q = laid_out(dense(c.q, {o.batch, o.len_q, o.heads, o.dim}, dtype), layout).requires_grad_();
  t.k = laid_out(dense(c.k, {o.batch, o.len_k, o.kv_heads, o.dim}, dtype), layout).requires_grad_();
  t.v = laid_out(dense(c.v, {o.batch, o.len_k, o.kv_heads, o.dim}, dtype), layout).requires_grad_();
  t.d_out = laid_out(dense(c.d_out, {o.batch, o.len_q, o.heads, o.dim}, dtype), layout);
  const at::ScalarType lse_dtype = dtype == at::kDouble ? at::kDouble : at::kFloat;
  if (c.has_d_lse) t.d_lse = dense(c.d_lse, {o.batch, o.heads, o.len_q}, lse_dtype);
  t.options.scale = o.scale;
  if (!o.cu_seqlens.empty()) t.options.cu_seqlens = o.cu_seqlens;
  if (!o.lengths.empty()) t.options.lengths = o.lengths;
  if (o.query_start != 0 || o.len_q != o.len_k) t.options.query_start = o.query_start;
  t.options.dropout_p = o.dropout_p;
  if (o.dropout_p > 0) t.options.dropout_seed = torch::tensor({static_cast<int64_t>(o.dropout_seed)}, at::kLong);
  if (!o.alibi_slopes.empty()) t.options.alibi_slopes = torch::tensor(at::ArrayRef<double>(o.alibi_slopes), at::kFloat);
  return t;
}

OpResults run_op(const Case& c) {
  const CallTensors t = tensors_of(c);
  const AttentionResult result = attention(t.q, t.k, t.v, c.pattern(), t.options);
  std::vector<at::Tensor> outputs = {result.out}, grads = {t.d_out};
  if (c.has_d_lse) {
    outputs.push_back(result.lse);
    grads.push_back(t.d_lse);
  }
  const auto d = torch::autograd::grad(outputs, {t.q, t.k, t.v}, grads);
  return {values(result.out), values(result.lse), values(d[0]), values(d[1]), values(d[2])};
}

OpForward run_peer(const Case& c) {
  const oracle::Options& o = c.options;
  const at::ScalarType dtype = scalar_type(c.dtype);
  const int64_t share = o.heads / o.kv_heads;
  // m, phantoms and kept pairs as the definition says, [batch, heads, len_q, len_k] and [batch, heads, len_q].
  std::vector<double> m, kept, phantoms;
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t h = 0; h < o.heads; ++h) {
      const oracle::Sight sight(o, b, o.kv_head(h));
      for (int64_t i = 0; i < o.len_q; ++i) {
        const int64_t position = o.query_start + i;
        phantoms.push_back(static_cast<double>(sight.phantoms(position)));
        for (int64_t p = 0; p < o.len_k; ++p) {
          m.push_back(static_cast<double>(sight.multiplicity(position, p)));
          const bool keep = o.dropout_p == 0 || oracle::keeps(o.dropout_seed, o.dropout_p, o.heads, b, h, position, p);
          kept.push_back(keep ? 1.0 / (1.0 - o.dropout_p) : 0.0);
        }
      }
    }
  }
  const auto tensor = [&](const std::vector<double>& x, at::IntArrayRef shape) {
    return dense(x, shape, dtype).nan_to_num(0.0);  // poison is read by no pair
  };
  const at::Tensor q = tensor(c.q, {o.batch, o.len_q, o.heads, o.dim});
  const at::Tensor k = tensor(c.k, {o.batch, o.len_k, o.kv_heads, o.dim});
  const at::Tensor v = tensor(c.v, {o.batch, o.len_k, o.kv_heads, o.dim});
  const at::Tensor keys = k.repeat_interleave(share, 2).transpose(1, 2);  // [batch, heads, len_k, dim]
  const at::Tensor vals = v.repeat_interleave(share, 2).transpose(1, 2);
  const std::vector<int64_t> rows = {o.batch, o.heads, o.len_q};
  const std::vector<int64_t> pairs = {o.batch, o.heads, o.len_q, o.len_k};
  const at::Tensor log_m = dense(m, pairs, at::kDouble).log().to(dtype);
  const at::Tensor log_z = dense(phantoms, rows, at::kDouble).log().to(dtype).unsqueeze(-1);
  at::Tensor scores = at::matmul(q.transpose(1, 2), keys.transpose(2, 3)) * o.scale_used();
  if (!o.alibi_slopes.empty()) {
    const at::Tensor keys_at = torch::arange(o.len_k, at::kDouble);
    const at::Tensor away = (keys_at - keys_at.narrow(0, o.query_start, o.len_q).unsqueeze(1)).abs();
    scores = scores - (dense(o.alibi_slopes, {o.heads, 1, 1}, at::kDouble) * away).to(dtype);
  }
  scores = scores + log_m;
  scores = at::cat({scores, log_z}, -1);
  const at::Tensor blind = scores.isneginf().all(-1, true);
  const at::Tensor lse =
      at::logsumexp(scores.masked_fill(blind, 0).to(dtype == at::kDouble ? at::kDouble : at::kFloat), -1)
          .masked_fill(blind.squeeze(-1), -std::numeric_limits<double>::infinity());
  const at::Tensor share_of =
      at::softmax(scores.masked_fill(blind, 0), -1).masked_fill(blind, 0).narrow(-1, 0, o.len_k);
  at::Tensor out = at::matmul(share_of * dense(kept, pairs, dtype), vals).transpose(1, 2);
  if (o.average) out = out / static_cast<double>(o.groups());
  return {values(out), values(lse)};
}

at::Tensor normal(uint64_t seed, at::IntArrayRef shape, at::ScalarType dtype) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return torch::randn(shape, generator, at::kDouble).to(dtype);
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.numel() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw something that is no longstride::Error: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

}  // namespace longstride::test
