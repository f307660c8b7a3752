// What a call does, counted: no clock, so that a busy machine measures the same as a quiet one.
#pragma once

#include <cstdint>
#include <utility>

namespace longstride::test {

struct Work {
  int64_t steps =
      0;  // basic blocks that instrumented code entered: the target is built with -fsanitize-coverage=trace-pc
  int64_t bytes = 0;  // asked of operator new, whether given back or not
};

// Of this thread, since it began.
Work work_so_far();

// What `call` does.
template <class Call>
Work work_of(Call&& call) {
  const Work before = work_so_far();
  std::forward<Call>(call)();
  const Work after = work_so_far();
  return {after.steps - before.steps, after.bytes - before.bytes};
}

}  // namespace longstride::test
