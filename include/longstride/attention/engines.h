// The engines that run attention, and the plans that are kept for them. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longstride {

// An engine of this build, and whether this machine can use it: what `longstride doctor` prints.
struct EngineReport {
  std::string engine;  // "cpu", "reference", "cuda sm90", "cuda sm80"; "cuda" stands for both where they are not built
  bool yes = false;
  std::string reason;  // what it takes and runs on, or why not
};
std::vector<EngineReport> capabilities();

// The engine that ran the last attention call (forward or backward) of this thread; "" before the first one. A call
// with no element to compute (an empty batch, no queries) runs none and leaves it as it was.
std::string last_engine();

// Has calls of an engine's device run on it, by a name that capabilities() gives, from now on and in all threads of the
// process; "" takes that back, and each call runs on the first engine of its device that can run it. A call that the
// engine cannot run is then an error that says why. For comparing engines: nothing else needs it. Returns the name that
// was in use. Throws Error if this build has no such engine.
std::string use_engine(const std::string& name);

// Compiled plans are kept in one cache of the process, bounded in bytes; the longest unused ones go first.
struct PlanCacheStats {
  int64_t entries = 0;
  int64_t bytes = 0;
  int64_t limit_bytes = 0;
  int64_t hits = 0;
  int64_t misses = 0;
  int64_t evictions = 0;
};
PlanCacheStats plan_cache_stats();
void set_plan_cache_limit(int64_t bytes);  // >= 0; 0 keeps nothing. Evicts at once. Throws Error if negative
void clear_plan_cache();                   // drops all plans; the counters stay

}  // namespace longstride
