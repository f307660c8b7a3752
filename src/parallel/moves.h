// What a rank does with rows beside its engine, wherever its tensors are: on the host (host_moves.h), or on a device,
// whose kernels src/op/parallel brings. Called by the rank's attention (attention.h) and by who runs its exchange, of
// one rank and problem.
//
// Messages lie end to end in the order of the lists, by ascending peer, as an all-to-all takes and gives them: row by
// row K and V of a key side by side, [rows, 2, dim]. The buffer of keys is [places, Gathered::keys, 2, dim]; gathered
// queries are [batch, heads, Gathered::queries, dim].
//
// Parts of rows, and gradients that travel, are float32, or float64 of float64.
#pragma once

#include <cstdint>

#include "engine/contract.h"

namespace longstride::parallel {

class Moves {
 public:
  virtual ~Moves() = default;

  virtual const engine::Workspace& workspace() const = 0;
  // Whether tensors may have 16 bits where parts are joined: sums are made in float32 and rounded once.
  virtual bool rounds() const = 0;

  // k and v of the shard into messages to send.
  virtual void pack(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* to) const = 0;
  // Messages received into the buffer of keys; then what else it holds.
  virtual void unpack(const void* from, void* buffer) const = 0;
  virtual void gather_keys(const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* buffer) const = 0;
  // Of q, or of what is like it; and of lse, or of what is like it, [batch, heads, rows].
  virtual void gather_queries(const engine::ConstTensorRef& from, void* to) const = 0;
  virtual void gather_lse(const void* from, void* to) const = 0;

  // (out, lse) of gathered queries to those of the shard: one softmax over the keys of both.
  virtual void merge(const void* part_out, const void* part_lse, const engine::TensorRef& out, void* lse) const = 0;

  // Gradients of gathered queries to those of the shard's; of the buffer of keys to the rows that were there first, and
  // then to those of the shard and into messages that go where the keys came from.
  virtual void add_queries(const void* part_dq, const engine::TensorRef& dq) const = 0;
  virtual void add_twice_gathered(void* buffer) const = 0;
  virtual void add_own_keys(const void* buffer, const engine::TensorRef& dk, const engine::TensorRef& dv) const = 0;
  virtual void pack_gradients(const void* buffer, void* to) const = 0;
  // What comes back for the keys that were sent, by ascending peer.
  virtual void add_returned(const void* from, const engine::TensorRef& dk, const engine::TensorRef& dv) const = 0;

  // `bytes` of each of `lines`, which lie so many bytes apart.
  virtual void copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes,
                          int64_t lines) const = 0;
};

}  // namespace longstride::parallel
