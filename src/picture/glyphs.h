// A stroke font for pictures: every printable ASCII character as polylines on a small grid. Called by
// raster.cc.
#pragma once

#include <string_view>

namespace longstride::picture {

// The strokes of a character: polylines separated by blanks, each point two digits x y. x in 0..4, y in 0..8 from the
// top of a capital (0) over the baseline (6) to the foot of a 'g' (8). An unknown character has a box.
std::string_view glyph_strokes(char c);

inline constexpr double kGlyphAdvance = 5.6;   // grid units from one character to the next
inline constexpr double kGlyphBaseline = 6.0;  // y of the baseline on the grid
inline constexpr double kGlyphLine = 9.6;      // grid units in the height of a line ("size" of a text)

}  // namespace longstride::picture
