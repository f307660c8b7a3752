// An error code of the CUDA runtime as an Error. Called wherever host code asks the runtime for something.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "longstride/error.h"

namespace longstride::engine::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw Error(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace longstride::engine::cuda
