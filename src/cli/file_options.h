// Options that name files and folders, refused while the command line is read. Called by every command. Torch-free.
#pragma once

#include <CLI/CLI.hpp>

namespace longstride::cli {

// An empty name is refused, where it would pass for an option that was not given.
CLI::Validator not_empty();

// A file to be written: refused if it cannot be (core/writable.h).
CLI::Validator output_file();

}  // namespace longstride::cli
