// Runs the kernels of engine/cuda/rows.h on the tables of a rank.
#include "engine/cuda/rows.h"
#include "op/parallel/cuda/device_moves.h"
#include "op/parallel/row_tables.h"

namespace longstride::op {
namespace {

using engine::ConstTensorRef;
using engine::TensorRef;
using engine::cuda::DeviceRows;

// Those of a rank on one device.
struct DeviceTables {
  explicit DeviceTables(const RowTables& t)
      : sends(t.sends), receives(t.receives), own(t.own), again(t.again), queries(t.queries) {}
  DeviceRows sends, receives, own, again, queries;
};

template <class Ref>
Ref elements_on(Ref t, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(t.data)>>, const char, char>;
  t.data = static_cast<Byte*>(t.data) + bytes;
  return t;
}

class DeviceMoves : public parallel::Moves {
 public:
  DeviceMoves(const CachedRank& rank, const engine::Problem& p, const Loan& loan)
      : rank_(rank),
        problem_(p),
        loan_(loan),
        kept_(rank.kept(loan.device, [&] { return std::make_shared<const DeviceTables>(row_tables(rank)); })),
        tables_(*static_cast<const DeviceTables*>(kept_.get())) {}

  const engine::Workspace& workspace() const override { return loan_.workspace; }
  bool rounds() const override { return true; }

  void pack(const ConstTensorRef& k, const ConstTensorRef& v, void* to) const override {
    gather_rows(tables_.sends, problem_.dtype, problem_.dim, {k, v}, to, loan_.stream);
  }
  void unpack(const void* from, void* buffer) const override {
    // Rows beyond those of a place's class are zeros.
    engine::cuda::clear_bytes(buffer, buffer_rows() * 2 * problem_.dim * element_bytes(), loan_.stream);
    const TensorRef k = in_buffer(buffer);
    scatter_rows(tables_.receives, problem_.dtype, problem_.dim, from, {k, values_of(k)}, loan_.stream);
  }
  void gather_keys(const ConstTensorRef& k, const ConstTensorRef& v, void* buffer) const override {
    gather_rows(tables_.own, problem_.dtype, problem_.dim, {k, v}, buffer, loan_.stream);
    const TensorRef received = in_buffer(buffer);
    gather_rows(tables_.again, problem_.dtype, problem_.dim, {received, values_of(received)}, buffer, loan_.stream);
  }
  void gather_queries(const ConstTensorRef& from, void* to) const override {
    engine::cuda::clear_bytes(to, query_rows() * problem_.dim * element_bytes(), loan_.stream);
    gather_rows(tables_.queries, problem_.dtype, problem_.dim, {from}, to, loan_.stream);
  }
  void gather_lse(const void* from, void* to) const override {
    engine::cuda::clear_bytes(to, query_rows() * kFloatBytes, loan_.stream);
    const ConstTensorRef lse{from, problem_.heads * problem_.len_q, 1, problem_.len_q};
    gather_rows(tables_.queries, core::DType::kFloat32, 1, {lse}, to, loan_.stream);
  }

  void merge(const void* part_out, const void* part_lse, const TensorRef& out, void* lse) const override {
    merge_rows(tables_.queries, problem_.dtype, problem_.dim, static_cast<const float*>(part_out),
               static_cast<const float*>(part_lse), out, static_cast<float*>(lse), problem_.len_q, loan_.stream);
  }
  void add_queries(const void* part_dq, const TensorRef& dq) const override {
    add_rows(tables_.queries, problem_.dtype, problem_.dim, static_cast<const float*>(part_dq), {dq}, loan_.stream);
  }
  void add_twice_gathered(void* buffer) const override {
    const TensorRef k = in_buffer(buffer);
    add_rows(tables_.again, core::DType::kFloat32, problem_.dim, static_cast<const float*>(buffer),
             {k, elements_on(k, problem_.dim * kFloatBytes)}, loan_.stream);
  }
  void add_own_keys(const void* buffer, const TensorRef& dk, const TensorRef& dv) const override {
    add_rows(tables_.own, problem_.dtype, problem_.dim, static_cast<const float*>(buffer), {dk, dv}, loan_.stream);
  }
  void pack_gradients(const void* buffer, void* to) const override {
    const ConstTensorRef k = in_buffer(const_cast<void*>(buffer));
    gather_rows(tables_.receives, core::DType::kFloat32, problem_.dim, {k, elements_on(k, problem_.dim * kFloatBytes)},
                to, loan_.stream);
  }
  void add_returned(const void* from, const TensorRef& dk, const TensorRef& dv) const override {
    add_rows(tables_.sends, problem_.dtype, problem_.dim, static_cast<const float*>(from), {dk, dv}, loan_.stream);
  }

  void copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes,
                  int64_t lines) const override {
    engine::cuda::copy_lines(from, from_pitch, to, to_pitch, bytes, lines, loan_.stream);
  }

 private:
  static constexpr int64_t kFloatBytes = 4;

  int64_t element_bytes() const { return static_cast<int64_t>(core::size_bytes(problem_.dtype)); }
  int64_t buffer_rows() const { return rank_.places() * rank_.gathered.keys; }
  int64_t query_rows() const { return problem_.batch * problem_.heads * rank_.gathered.queries; }
  // The keys of the buffer, in elements of either type, a head a place; values lie beside them.
  TensorRef in_buffer(void* buffer) const {
    return {buffer, 0, 2 * problem_.dim, rank_.gathered.keys * 2 * problem_.dim};
  }
  TensorRef values_of(const TensorRef& keys) const { return elements_on(keys, problem_.dim * element_bytes()); }

  const CachedRank& rank_;
  const engine::Problem& problem_;
  const Loan& loan_;
  std::shared_ptr<const void> kept_;
  const DeviceTables& tables_;
};

}  // namespace

std::unique_ptr<parallel::Moves> device_moves(const CachedRank& rank, const engine::Problem& p, const Loan& loan) {
  return std::make_unique<DeviceMoves>(rank, p, loan);
}

}  // namespace longstride::op
