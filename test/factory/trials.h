// Every option that a registered type may document, with what it is to mean: said to the module's options and to the
// oracle, by hand. Called by types_test.cc.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "longstride/factory.h"
#include "test/factory/oracle_attention.h"

namespace longstride::factory_test {

inline constexpr int64_t kLen = 29;  // no multiple of a segment or a block

// What options by name are to mean: the same said to the module's options and to the oracle, by hand.
struct Meant {
  MultiheadDilatedAttentionOptions module;  // but for the pattern
  FlatPattern pattern;
  oracle::Options oracle;
  LearnedBlocks learned;  // of a learned pattern; its blocks are told to the oracle when they have been chosen

  MultiheadDilatedAttentionOptions options() const;  // `module` with the pattern
};

struct Trial {
  NamedOptions options;
  std::function<void(Meant&)> means = [](Meant&) {};
};

// Where every trial of a type starts, and what that means.
NamedOptions base_options(const std::string& type, bool multihead);
Meant base_meaning(const std::string& type);
// What to try of an option. Fails the test if there is nothing.
std::vector<Trial> trials_of(const std::string& option, const std::string& type, bool multihead);

}  // namespace longstride::factory_test
