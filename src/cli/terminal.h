// Tables and grids for a terminal: columns that line up, and who sees whom as characters. Called by show, bench and
// doctor. Torch-free.
#pragma once

#include <string>
#include <vector>

#include "longstride/pattern.h"
#include "show_cells.h"

namespace longstride::cli {

// Rows of words, the first one the heading, as lines with columns of equal width: the first column to the left, the
// others to the right. `indent` blanks before each line.
std::string text_table(const std::vector<std::vector<std::string>>& rows, int indent = 2);

// "1.5 GiB", "23 KiB", "17 bytes".
std::string bytes_label(double bytes);

// Whether stdout is a terminal that wants colours (NO_COLOR is not set and TERM is not "dumb").
bool stdout_wants_color();

// One line a row of cells. Cells of one token: the number of groups, '.' for none (a letter from ten on); of more
// tokens: a shade for the share of pairs seen. With `color`, every cell has its group's colour behind it.
std::string text_grid(const Pattern& pattern, const Extent& extent, const Cells& cells, bool color);

}  // namespace longstride::cli
