// Counting who sees whom in cells of several tokens, against the count token by token.
#include "show_cells.h"

#include <gtest/gtest.h>

#include <random>

namespace longstride::cli {
namespace {

TEST(ShowCells, CoarseCellsAddUpTheFineOnes) {
  for (const bool causal : {false, true}) {
    for (const int64_t query_start : {0, 37}) {
      DilatedOptions options;
      options.causal = causal;
      const Pattern pattern = Pattern::dilated({8, 50, 1000}, {1, 3, 7}, options);
      Extent extent;
      extent.heads = extent.kv_heads = 3;
      extent.len_k = 203;
      extent.query_start = query_start;
      extent.len_q = extent.len_k - query_start;
      extent.cu_seqlens = {0, 90, 90, 203};
      for (int64_t head = 0; head < 3; ++head) {
        const Cells fine = count_cells(pattern, extent, head, 1024);
        const Cells coarse = count_cells(pattern, extent, head, 16);
        ASSERT_EQ(fine.query_tokens, 1);
        ASSERT_EQ(coarse.key_tokens, 16);
        for (int64_t g = 0; g < 3; ++g) {
          for (int64_t r = 0; r < coarse.rows; ++r) {
            for (int64_t c = 0; c < coarse.columns; ++c) {
              const int64_t row_end = std::min(fine.rows, (r + 1) * coarse.query_tokens);
              const int64_t column_end = std::min(fine.columns, (c + 1) * coarse.key_tokens);
              double sum = 0;
              for (int64_t q = r * coarse.query_tokens; q < row_end; ++q)
                for (int64_t k = c * coarse.key_tokens; k < column_end; ++k) sum += fine.of(g, q, k);
              const double pairs =
                  static_cast<double>((row_end - r * coarse.query_tokens) * (column_end - c * coarse.key_tokens));
              ASSERT_NEAR(coarse.of(g, r, c) * pairs, sum, 1e-9)
                  << "causal " << causal << " start " << query_start << " head " << head << " group " << g << " cell "
                  << r << ", " << c;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace longstride::cli
