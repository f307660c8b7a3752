// Names of the operators. Whoever has them from here has them registered: schema.cc, which holds them, does that.
#pragma once

namespace longstride::op {

extern const char* const kAttention;
extern const char* const kAttentionBackward;

}  // namespace longstride::op
