// What every option means, in one line: the words of `longstride doctor --types`. Called by the builders.
#pragma once

#include <string>

namespace longstride::factory {

// Throws Error for an option that nobody has described.
std::string meaning_of(const std::string& option);

}  // namespace longstride::factory
