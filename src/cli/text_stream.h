// Bytes as they are generated, printed so that a terminal stays readable: whole UTF-8 characters only, U+FFFD for what
// is none, and no control characters but newline and tab. Called by generate. Torch-free.
#pragma once

#include <string>

namespace longstride::cli {

class TextStream {
 public:
  // What can be printed now that `byte` came; an unfinished character is held back.
  std::string push(unsigned char byte);
  // What is left at the end: U+FFFD for an unfinished character.
  std::string flush();

 private:
  std::string pending_;  // the bytes of a character that is not whole yet
  int wanted_ = 0;       // its length
};

}  // namespace longstride::cli
