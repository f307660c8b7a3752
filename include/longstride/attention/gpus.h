// The GPUs of this machine, as builds with CUDA engines know them. Torch-free.
#pragma once

#include <string>

namespace longstride {

// "NVIDIA H200" of the CUDA device of this number; "" in a build without CUDA engines.
std::string gpu_name(int index);

}  // namespace longstride
