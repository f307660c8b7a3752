// Reading a file that an argument names, whole, with our own words for what cannot be read. Called by the
// trainer and every command.
#pragma once

#include <string>

namespace longstride::core {

// The bytes of the file at `path`. Throws Error, which names `argument` (none if empty) and says why: no such file, a
// folder, no permission, ...
std::string read_input(const std::string& argument, const std::string& path);

// All of standard input, in the same way.
std::string read_standard_input(const std::string& argument);

}  // namespace longstride::core
