// Files and folders that a command writes when its work is done or under way: refused before the work if they cannot be
// written, by trying it beside them, and nothing stays behind. Called by every command. Torch-free.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

namespace longstride::cli {

// For options that name a file to be written: an empty name, a folder, a file in a folder that is not there or cannot
// be written are refused while the command line is read. What stands there is not touched.
CLI::Validator output_file();

// Throws Error, which names `argument`, unless the folder can be made and written to, the folders above it among it.
void check_output_folder(const std::string& argument, const std::string& path);

// Writes the file whole or not at all: beside it, then renamed onto it, so that what stood there survives until then.
// A link is followed; a device or a pipe is written to. Throws std::runtime_error.
void write_output(const std::string& path, std::string_view bytes);

}  // namespace longstride::cli
