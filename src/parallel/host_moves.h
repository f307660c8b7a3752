// Rows of tensors on the host, by the caller's threads: moved as bytes, of any element type, and added up in float32 or
// float64.
#pragma once

#include "parallel/attention.h"
#include "parallel/moves.h"

namespace longstride::parallel {

// Borrows the rank and the workspace. Of the problem it takes heads, dim, dtype and rows.
class HostMoves : public Moves {
 public:
  HostMoves(const Rank&, const engine::Problem&, const engine::Workspace&);

  const engine::Workspace& workspace() const override { return workspace_; }
  bool rounds() const override { return false; }
  void pack(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* to) const override;
  void unpack(const void* from, void* buffer) const override;
  void gather_keys(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* buffer) const override;
  void gather_queries(const engine::ConstTensorRef& from, void* to) const override;
  void gather_lse(const void* from, void* to) const override;
  void merge(const void* part_out, const void* part_lse, const engine::TensorRef& out, void* lse) const override;
  void add_queries(const void* part_dq, const engine::TensorRef& dq) const override;
  void add_twice_gathered(void* buffer) const override;
  void add_own_keys(const void* buffer, const engine::TensorRef& dk, const engine::TensorRef& dv) const override;
  void pack_gradients(const void* buffer, void* to) const override;
  void add_returned(const void* from, const engine::TensorRef& dk, const engine::TensorRef& dv) const override;
  void copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes,
                  int64_t lines) const override;

 private:
  void gather(const engine::ConstTensorRef& from, const RowShape&, void* to) const;
  template <class Visit>
  void for_each_query(const Visit& visit) const;

  const Rank& rank_;
  int64_t heads_, rows_;
  const engine::Workspace& workspace_;
  RowShape shape_;
};

}  // namespace longstride::parallel
