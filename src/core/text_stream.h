// Bytes as they are generated, printed so that a terminal stays readable: whole UTF-8 characters only, U+FFFD for what
// is none, and no control characters but newline and tab. A carriage return before a newline stays; alone, where it
// would set the cursor back over the line, it is a newline. And text that was given, as a message can hold it. Called
// by generate, by pictures, by refuse.cc for every message, and by who words one himself.
#pragma once

#include <string>
#include <string_view>

namespace longstride::core {

// Bytes of the UTF-8 character that `bytes` begins with; 0: it begins with none.
size_t character_size(std::string_view bytes);

// All of `bytes` as TextStream prints them.
std::string readable(std::string_view bytes);

// Bytes that are no UTF-8, and control characters but for newline and tab, as \xNN; the middle left out where it is
// long.
std::string printable(std::string_view text);

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
