// Joins what a rank computed of gathered rows with what it computed of its pieces, and brings gradients home. In
// float32 or float64, in one order whatever the threads: sums of a row are added up by one thread, from one peer after
// another. Called by the rank's attention (attention.h), with memory as rows.h has it; other element types are refused.
#pragma once

#include <vector>

#include "parallel/rows.h"

namespace longstride::parallel {

// Joins (out, lse) of gathered queries with those of the shard, [batch, rows, heads, dim] and [batch, heads, rows]: one
// softmax over the keys of both. A part that saw nothing, lse = -inf, is not read.
void merge(const Moving&, int64_t heads, const void* part_out, const void* part_lse, const engine::TensorRef& out,
           void* lse, int64_t rows);

// Adds gradients of gathered queries to those of the shard's.
void add_queries(const Moving&, int64_t heads, const void* part_dq, const engine::TensorRef& dq);
// Within the gradients of the buffer of keys adds those of rows that are there twice to the received ones, which are
// what pack_gradients() sends.
void add_twice_gathered(const Moving&, void* buffer);
// Adds the gradients of the shard's own rows in the buffer to dk and dv.
void add_own_keys(const Moving&, const void* buffer, const engine::TensorRef& dk, const engine::TensorRef& dv);
// Adds what comes back for the keys that were sent, messages by ascending peer.
void add_returned(const Moving&, const std::vector<Message>& sends, const void* from, const engine::TensorRef& dk,
                  const engine::TensorRef& dv);

}  // namespace longstride::parallel
