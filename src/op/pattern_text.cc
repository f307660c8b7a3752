// Two bounded maps behind one lock.
#include "op/pattern_text.h"

#include <mutex>
#include <unordered_map>

#include "longstride/pattern/json.h"
#include "plan/cache.h"

namespace longstride::op {
namespace {

// What hashes a plan's key hashes its pattern; the lengths are those of an empty call.
struct PatternHash {
  size_t operator()(const Pattern& pattern) const { return plan::PlanKeyHash{}({.pattern = pattern}); }
};

// Texts longer than this are written and parsed each time: kept, 256 of them could take more than the plans do.
constexpr size_t kLongestText = 4096;

std::mutex mutex;
std::unordered_map<std::string, std::shared_ptr<const Pattern>> by_text;
std::unordered_map<Pattern, std::string, PatternHash> by_pattern;

template <class Map, class Key, class Value>
void keep(Map& map, const Key& key, const Value& value) {
  const std::lock_guard lock(mutex);
  if (map.size() >= kMostTexts) map.clear();
  map.emplace(key, value);
}

}  // namespace

std::string text_of(const Pattern& pattern) {
  {
    const std::lock_guard lock(mutex);
    if (const auto found = by_pattern.find(pattern); found != by_pattern.end()) return found->second;
  }
  std::string text = to_json(pattern);
  if (text.size() <= kLongestText) keep(by_pattern, pattern, text);
  return text;
}

std::shared_ptr<const Pattern> pattern_of(std::string_view text) {
  const std::string key(text);
  {
    const std::lock_guard lock(mutex);
    if (const auto found = by_text.find(key); found != by_text.end()) return found->second;
  }
  auto pattern = std::make_shared<const Pattern>(pattern_from_json(key));
  if (key.size() <= kLongestText) keep(by_text, key, pattern);
  return pattern;
}

size_t kept_texts() {
  const std::lock_guard lock(mutex);
  return by_text.size() + by_pattern.size();
}

}  // namespace longstride::op
