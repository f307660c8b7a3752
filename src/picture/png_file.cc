// PNG files by libpng's simplified interface (png_file.h).
#include "picture/png_file.h"

#include <png.h>

#include <stdexcept>

namespace longstride::picture {

std::string png_file(int64_t width, int64_t height, const std::vector<uint8_t>& rgb) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, rgb.data(), 0, nullptr) == 0)
    throw std::runtime_error(std::string("cannot draw the picture as PNG: ") + image.message);
  bytes.resize(size);
  return bytes;
}

}  // namespace longstride::picture
