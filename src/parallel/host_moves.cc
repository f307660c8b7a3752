#include "parallel/host_moves.h"

#include <cstring>

#include "parallel/sums.h"

namespace longstride::parallel {

HostMoves::HostMoves(const Rank& rank, const engine::Problem& p, const engine::Workspace& w)
    : lists_(rank.lists),
      heads_(p.heads),
      rows_(p.len_q),
      workspace_(w),
      rows_of_{rank.call, rank.gathered, {.dim = p.dim, .dtype = p.dtype}, w.parallel_for},
      lse_of_{rank.call,
              rank.gathered,
              {.dim = 1, .dtype = p.dtype == core::DType::kFloat64 ? core::DType::kFloat64 : core::DType::kFloat32},
              w.parallel_for} {}

void HostMoves::pack(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* to) const {
  parallel::pack(rows_of_, lists_.sends, k, v, to);
}
void HostMoves::unpack(const void* from, void* buffer) const {
  parallel::unpack(rows_of_, lists_.receives, from, buffer);
}
void HostMoves::gather_keys(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* buffer) const {
  parallel::gather_keys(rows_of_, k, v, buffer);
}
void HostMoves::gather_queries(const engine::ConstTensorRef& from, void* to) const {
  parallel::gather_queries(rows_of_, heads_, from, to);
}
void HostMoves::gather_lse(const void* from, void* to) const {
  parallel::gather_queries(lse_of_, heads_, {from, heads_ * rows_, 1, rows_}, to);
}
void HostMoves::merge(const void* part_out, const void* part_lse, const engine::TensorRef& out, void* lse) const {
  parallel::merge(rows_of_, heads_, part_out, part_lse, out, lse, rows_);
}
void HostMoves::add_queries(const void* part_dq, const engine::TensorRef& dq) const {
  parallel::add_queries(rows_of_, heads_, part_dq, dq);
}
void HostMoves::add_twice_gathered(void* buffer) const { parallel::add_twice_gathered(rows_of_, buffer); }
void HostMoves::add_own_keys(const void* buffer, const engine::TensorRef& dk, const engine::TensorRef& dv) const {
  parallel::add_own_keys(rows_of_, buffer, dk, dv);
}
void HostMoves::pack_gradients(const void* buffer, void* to) const {
  parallel::pack_gradients(rows_of_, lists_.receives, buffer, to);
}
void HostMoves::add_returned(const void* from, const engine::TensorRef& dk, const engine::TensorRef& dv) const {
  parallel::add_returned(rows_of_, lists_.sends, from, dk, dv);
}

void HostMoves::copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes,
                           int64_t lines) const {
  for (int64_t n = 0; n < lines; ++n) {
    std::memcpy(static_cast<char*>(to) + n * to_pitch, static_cast<const char*>(from) + n * from_pitch,
                static_cast<size_t>(bytes));
  }
}

}  // namespace longstride::parallel
