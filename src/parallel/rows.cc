// Lists of progressions become tasks of some hundred rows, which threads copy.
#include "parallel/rows.h"

#include <algorithm>
#include <cstring>
#include <functional>

namespace longstride::parallel {
namespace {

// Enough rows that a task is worth handing out: 64 KiB at dim 64 in bfloat16, K and V.
constexpr int64_t kRowsOfATask = 256;

// `count` rows from `row` of one memory, at a step, and from `other` of another, one by one, of a place.
struct Task {
  int64_t place = 0;
  int64_t row = 0;
  int64_t step = 1;
  int64_t count = 0;
  int64_t other = 0;
};

class Tasks {
 public:
  void add(const Task& whole) {
    for (int64_t i = 0; i < whole.count; i += kRowsOfATask) {
      all_.push_back({whole.place, whole.row + i * whole.step, whole.step, std::min(kRowsOfATask, whole.count - i),
                      whole.other + i});
    }
  }

  void run(const engine::ParallelFor& parallel_for, const std::function<void(const Task&)>& body) const {
    const auto count = std::ssize(all_);
    if (parallel_for) {
      parallel_for(count, [&](int64_t index, int) { body(all_[index]); });
    } else {
      for (const Task& one : all_) body(one);
    }
  }

 private:
  std::vector<Task> all_;
};

// Calls visit(place, part, the row of its first key among all messages).
template <class Visit>
void for_each_part(const ShardedCall& call, const std::vector<Message>& messages, const Visit& visit) {
  int64_t begin = 0;
  for (const Message& m : messages) {
    for (size_t place = 0; place < call.classes.class_of.size(); ++place) {
      const int32_t c = call.classes.class_of[place];
      for (int64_t p = m.part_begin[c]; p < m.part_begin[c + 1]; ++p) {
        visit(static_cast<int64_t>(place), m.parts[p], begin + m.place_begin[place] + m.parts[p].packed);
      }
    }
    begin += m.rows();
  }
}

// A tensor of the shard in bytes.
class Shard {
 public:
  Shard(const engine::ConstTensorRef& t, const RowShape& shape)
      : t_(t), bytes_(shape.element_bytes()), row_bytes_(shape.dim * bytes_) {}
  const char* row(int64_t b, int64_t i, int64_t head) const {
    return static_cast<const char*>(t_.data) +
           (b * t_.batch_stride + i * t_.len_stride + head * t_.head_stride) * bytes_;
  }
  int64_t row_bytes() const { return row_bytes_; }

 private:
  engine::ConstTensorRef t_;
  int64_t bytes_;
  int64_t row_bytes_;
};

// Rows of the shard, K beside V, one by one from `to` on.
void copy_keys(const Shard& k, const Shard& v, int64_t kv_heads, const Task& task, char* to) {
  const int64_t b = task.place / kv_heads, j = task.place % kv_heads, bytes = k.row_bytes();
  for (int64_t i = 0; i < task.count; ++i, to += 2 * bytes) {
    const int64_t row = task.row + i * task.step;
    std::memcpy(to, k.row(b, row, j), static_cast<size_t>(bytes));
    std::memcpy(to + bytes, v.row(b, row, j), static_cast<size_t>(bytes));
  }
}

// Between messages and the buffer of keys, where both lie one by one.
template <class Copy>
void for_each_received(const Moving& m, const std::vector<Message>& receives, const Copy& copy) {
  Tasks tasks;
  for_each_part(m.call, receives, [&](int64_t place, const Part& part, int64_t packed) {
    tasks.add({place, place * m.gathered.keys + part.received, 1, part.keys.count, packed});
  });
  const int64_t bytes = m.shape.forward_bytes();
  tasks.run(m.parallel_for,
            [&](const Task& t) { copy(t.row * bytes, t.other * bytes, static_cast<size_t>(t.count * bytes)); });
}

void zero_rows(char* memory, int64_t begin, int64_t end, int64_t bytes) {
  if (begin < end) std::memset(memory + begin * bytes, 0, static_cast<size_t>((end - begin) * bytes));
}

}  // namespace

int64_t rows_in(const std::vector<Message>& messages) {
  int64_t rows = 0;
  for (const Message& m : messages) rows += m.rows();
  return rows;
}

void pack(const Moving& m, const std::vector<Message>& sends, const engine::ConstTensorRef& k,
          const engine::ConstTensorRef& v, void* to) {
  Tasks tasks;
  for_each_part(m.call, sends, [&](int64_t place, const Part& part, int64_t packed) {
    tasks.add({place, part.local, part.keys.step, part.keys.count, packed});
  });
  const Shard keys(k, m.shape), values(v, m.shape);
  tasks.run(m.parallel_for, [&](const Task& t) {
    copy_keys(keys, values, m.call.extent.kv_heads, t, static_cast<char*>(to) + t.other * m.shape.forward_bytes());
  });
}

void unpack(const Moving& m, const std::vector<Message>& receives, const void* from, void* buffer) {
  for_each_received(m, receives, [&](int64_t in_buffer, int64_t in_messages, size_t bytes) {
    std::memcpy(static_cast<char*>(buffer) + in_buffer, static_cast<const char*>(from) + in_messages, bytes);
  });
}

void pack_gradients(const Moving& m, const std::vector<Message>& receives, const void* buffer, void* to) {
  for_each_received(m, receives, [&](int64_t in_buffer, int64_t in_messages, size_t bytes) {
    std::memcpy(static_cast<char*>(to) + in_messages, static_cast<const char*>(buffer) + in_buffer, bytes);
  });
}

void gather_keys(const Moving& m, const engine::ConstTensorRef& k, const engine::ConstTensorRef& v, void* buffer) {
  Tasks own, again;
  const int64_t bytes = m.shape.forward_bytes();
  char* const to = static_cast<char*>(buffer);
  for (size_t place = 0; place < m.call.classes.class_of.size(); ++place) {
    const GatheredClass& of_place = m.gathered.classes[m.call.classes.class_of[place]];
    const auto at = static_cast<int64_t>(place);
    const int64_t begin = at * m.gathered.keys;
    for (const Gathering& g : of_place.own) own.add({at, g.from, g.step, g.count, begin + g.to});
    for (const Gathering& g : of_place.received) again.add({at, begin + g.from, g.step, g.count, begin + g.to});
    zero_rows(to, begin + of_place.key_rows, begin + m.gathered.keys, bytes);
  }
  const Shard keys(k, m.shape), values(v, m.shape);
  own.run(m.parallel_for,
          [&](const Task& t) { copy_keys(keys, values, m.call.extent.kv_heads, t, to + t.other * bytes); });
  again.run(m.parallel_for, [&](const Task& t) {
    for (int64_t i = 0; i < t.count; ++i) {
      std::memcpy(to + (t.other + i) * bytes, to + (t.row + i * t.step) * bytes, static_cast<size_t>(bytes));
    }
  });
}

void gather_queries(const Moving& m, int64_t heads, const engine::ConstTensorRef& from, void* to) {
  Tasks tasks;
  const int64_t kv_heads = m.call.extent.kv_heads, per_key = heads / kv_heads;
  const Shard rows(from, m.shape);
  const int64_t bytes = rows.row_bytes();
  for (int64_t place = 0; place < m.call.extent.batch * heads; ++place) {
    const GatheredClass& of_place = m.gathered.classes[m.call.classes.class_of[place / per_key]];
    const int64_t begin = place * m.gathered.queries;
    for (const Gathering& g : of_place.queries) tasks.add({place, g.from, g.step, g.count, begin + g.to});
    zero_rows(static_cast<char*>(to), begin + of_place.query_rows, begin + m.gathered.queries, bytes);
  }
  tasks.run(m.parallel_for, [&](const Task& t) {
    const int64_t b = t.place / heads, h = t.place % heads;
    char* out = static_cast<char*>(to) + t.other * bytes;
    for (int64_t i = 0; i < t.count; ++i, out += bytes) {
      std::memcpy(out, rows.row(b, t.row + i * t.step, h), static_cast<size_t>(bytes));
    }
  });
}

}  // namespace longstride::parallel
