// The lists of a rank as the kernels of a device read them (engine/cuda/row_table.h). Made once a rank; pure.
#pragma once

#include "engine/cuda/row_table.h"
#include "parallel/attention.h"

namespace longstride::op {

struct RowTables {
  using Table = engine::cuda::RowTable;
  // Rows of the shard's keys in messages that are sent: all peers' one after another, by ascending peer.
  Table sends;
  // Rows of the buffer of keys in messages that are received. Here and in `again` a place is one head of one batch row:
  // the buffer is [places, rows].
  Table receives;
  // Rows of the shard's keys in the buffer, and rows of the buffer further on in it.
  Table own, again;
  // Rows of the shard's queries among the gathered ones; places are query heads.
  Table queries;
};

RowTables row_tables(const parallel::Rank&);

}  // namespace longstride::op
