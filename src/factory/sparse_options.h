// Which options of a SparseAttentionConfig a pattern takes. Called by the config's checks and the builders.
#pragma once

#include <string>
#include <vector>

namespace longstride::factory {

// Besides "pattern" and "block_size", which all take. Throws Error with the nearest name if there is no such pattern.
const std::vector<std::string>& options_of_pattern(const std::string& pattern);

// The names of the patterns that take an option besides these two.
std::vector<std::string> patterns_that_take(const std::string& option);

}  // namespace longstride::factory
