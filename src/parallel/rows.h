// Moves rows between a shard, the messages of an exchange and what a rank gathers, as bytes: any element type. Called
// by who runs an exchange, before and after it, and by the rank's attention (attention.h).
//
// Messages lie end to end in the order of the lists, by ascending peer, as an all-to-all takes and gives them: row by
// row K and V of a key side by side, [rows, 2, dim]. The buffer of keys is [places, Gathered::keys, 2, dim]; gathered
// queries are [batch, heads, Gathered::queries, dim].
#pragma once

#include <cstdint>
#include <vector>

#include "engine/contract.h"
#include "parallel/call.h"
#include "parallel/gathered.h"
#include "parallel/lists.h"

namespace longstride::parallel {

int64_t rows_in(const std::vector<Message>&);

// What all of it agrees on. `parallel_for` empty: one thread.
struct Moving {
  const ShardedCall& call;
  const Gathered& gathered;
  RowShape shape;
  engine::ParallelFor parallel_for;
};

// Keys and values of the shard, [batch, rows, kv_heads, dim], into messages to send.
void pack(const Moving&, const std::vector<Message>& sends, const engine::ConstTensorRef& k,
          const engine::ConstTensorRef& v, void* to);
// Messages received into the buffer of keys.
void unpack(const Moving&, const std::vector<Message>& receives, const void* from, void* buffer);
// The other rows of the buffer: the shard's own, those that are there before, and zeros where a class has fewer rows.
// Called when all that is received has been unpacked.
void gather_keys(const Moving&, const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* buffer);
// Rows of q, or of what is like it, [batch, rows, heads, dim]. lse is gathered as a tensor of dim 1.
void gather_queries(const Moving&, int64_t heads, const engine::ConstTensorRef& from, void* to);

// The way back, when shape.dtype is that of gradients. From the gradients of the buffer, which lie as it does, into
// messages that go where those of the keys came from.
void pack_gradients(const Moving&, const std::vector<Message>& receives, const void* buffer, void* to);

}  // namespace longstride::parallel
