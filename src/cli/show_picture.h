// The pictures of show: who sees whom token by token, and the plan that computes it. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "picture/picture.h"
#include "show_cells.h"

namespace longstride::cli {

// One head large (colour: the group; darker: more groups), each group small, and the first heads small. Below them, if
// there are `alibi_slopes`, one a head: what is left of a key by its distance.
picture::Picture token_picture(const Pattern& pattern, const Extent& extent, int64_t head,
                               const std::vector<float>& alibi_slopes = {});

// One panel a level for the class of `head`, positions sorted by residue so that strided tiles are rectangles. Throws
// Error when the plan has more rectangles than a picture can show.
picture::Picture plan_picture(const PlanView& plan, const Pattern& pattern, const Extent& extent, int64_t head);

// The group whose colour a cell has: of those that show any of its pairs, the one with the smallest segment; -1: none.
int64_t lead_group(const Pattern& pattern, const Cells& cells, int64_t row, int64_t column);

// Colour of a cell in which the groups' shares are what count_cells gives; white where no group shows a pair.
// `multiplicity` is the sum of the shares, `group` is lead_group().
picture::Color cell_color(int64_t group, double multiplicity, bool single_tokens);

}  // namespace longstride::cli
