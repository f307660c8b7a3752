// What every option means, in one line: the words of `longstride doctor --types`; and which options of a
// SparseAttentionConfig a pattern takes. Called by the builders and by the config's checks.
#pragma once

#include <string>
#include <vector>

namespace longstride::factory {

// Throws Error for an option that nobody has described.
std::string meaning_of(const std::string& option);

// The options of a pattern besides "pattern" and "block_size", which all take. Throws Error with the nearest name if
// there is no such pattern.
const std::vector<std::string>& options_of_pattern(const std::string& pattern);

// The names of the patterns that take an option besides these two.
std::vector<std::string> patterns_that_take(const std::string& option);

}  // namespace longstride::factory
