// Whether files and folders that are written when the work is done or under way can be: asked before the work, by
// trying it beside them, and nothing stays behind. Called by the trainer and every command. Torch-free.
#pragma once

#include <string>

namespace longstride::core {

// Why no file can be written at `given`: it is empty, a folder, in a folder that is not there or that takes none; "" if
// one can. What stands there is not touched.
std::string why_not_writable(const std::string& given);

// Throws Error, which names `argument`, unless the folder can be made and written to, the folders above it among it.
void check_output_folder(const std::string& argument, const std::string& path);

}  // namespace longstride::core
