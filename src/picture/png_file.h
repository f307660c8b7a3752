// Pixels to the bytes of a PNG file, by libpng. Called by picture.cc. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longstride::picture {

// rgb: height x width x 3 bytes, rows from the top. Throws std::runtime_error if libpng refuses.
std::string png_file(int64_t width, int64_t height, const std::vector<uint8_t>& rgb);

}  // namespace longstride::picture
