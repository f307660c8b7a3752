// What is fuzzed: a reader of text, and texts that it accepts.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace longstride::fuzz {

struct Reader {
  const char* name;
  std::vector<std::string> seeds;  // to be damaged; read as they are, they must be accepted
  // May throw Error and nothing else. What it accepts it also uses: written and read again, it must be the same.
  std::function<void(const std::string& text)> read;
};

// Torch-free: JSON, patterns, safetensors headers.
std::vector<Reader> text_readers();
// Options and configs of modules and of the factory, safetensors files, saved models and runs.
std::vector<Reader> model_readers();

// Throws std::logic_error, which is a finding.
void require(bool holds, const char* what);

}  // namespace longstride::fuzz
