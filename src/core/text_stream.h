// Bytes as they are generated, printed so that a terminal stays readable: whole UTF-8 characters only, U+FFFD for what
// is none, and no control characters but newline and tab. A carriage return before a newline stays; alone, where it
// would set the cursor back over the line, it is a newline. Called by generate, by pictures
// and by printable.cc.
#pragma once

#include <string>
#include <string_view>

namespace longstride::core {

// Bytes of the UTF-8 character that `bytes` begins with; 0: it begins with none.
size_t character_size(std::string_view bytes);

// All of `bytes` as TextStream prints them.
std::string readable(std::string_view bytes);

class TextStream {
 public:
  // What can be printed now that `byte` came; an unfinished character is held back.
  std::string push(unsigned char byte);
  // What is left at the end: U+FFFD for an unfinished character, a newline for a carriage return.
  std::string flush();

 private:
  std::string pending_;  // the bytes of a character that is not whole yet, or a carriage return
  int wanted_ = 0;       // its length
};

}  // namespace longstride::core
