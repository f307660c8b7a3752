// The constructors of dilated-attention-pytorch as tables: parameters in their positional order, and what each is here.
// Facts from fkodom/dilated-attention-pytorch and DarcStar-Solutions-Tech/dilated-attention-pytorch. Called by
// legacy.cc.
#pragma once

#include <string>
#include <vector>

#include "longstride/factory/options.h"

namespace longstride::factory {

enum class LegacyKind { kAttention, kMultihead, kEncoderLayer, kDecoderLayer, kLongNet };

struct LegacyParameter {
  std::string name;
  // Options here that take its value; none: it has no counterpart, and any value but its default is refused.
  std::vector<std::string> options;
  OptionValue standard;  // its default there; unset: none, or that of ours
  bool required = false;
  const char* instead = "";  // what to do in place of a parameter without a counterpart
};

struct LegacyClass {
  std::string name;
  LegacyKind kind;
  const char* type;                         // of the factory; "" for layers and models
  std::vector<LegacyParameter> positional;  // also by keyword
  std::vector<LegacyParameter> keywords;    // by keyword only
};

// Sorted by name.
const std::vector<LegacyClass>& legacy_classes();

}  // namespace longstride::factory
