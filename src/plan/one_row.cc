// A group that samples the row shows it columns of the row's own residue modulo the group's rate, from the segment's
// first to its last. Where rates divide each other the groups nest: a column at distance d from the row counts for
// every group that reaches it and whose rate divides d.
#include "plan/one_row.h"

#include <algorithm>
#include <array>
#include <span>

#include "core/checked.h"

namespace longstride::plan {
namespace {

using core::floor_modulo;

// The columns [begin, end) at distances from the row that `rate` divides.
struct Reach {
  int64_t rate = 1, begin = 0, end = 0;
};

// What one group shows a row of a document [document, document_end).
Reach reach_of(const Sampling& s, int64_t row, int64_t document, int64_t document_end, const Scope& scope) {
  const int64_t in_document = row - document, segment = document + in_document - in_document % s.segment;
  if (s.offset >= s.segment || in_document % s.segment % s.rate != s.offset) return {};
  const int64_t length = std::min(s.segment, document_end - segment);
  const int64_t end = scope.causal ? std::min(row + 1, segment + length) : segment + length;
  // A segment of one sample shows the row itself, whatever the rate.
  const Reach reach = samples_once(s) ? Reach{1, row, row + 1} : Reach{s.rate, segment, end};
  return {reach.rate, std::max(reach.begin, scope.column_begin), std::min(reach.end, scope.column_end)};
}

// Columns y of [begin, end) with y = phase modulo `step`, `weight` times each: residues of a level of this stride, of
// which the first have a column more than the others. `diagonal`: Run::kGrows where they end with the row's reach.
void emit(int64_t begin, int64_t end, int64_t phase, int64_t step, int64_t stride, int32_t weight, int64_t diagonal,
          std::vector<Run>& runs) {
  const int64_t first = begin + floor_modulo(phase - begin, step);
  if (first >= end) return;
  const int64_t count = (end - 1 - first) / step + 1, residues = stride / step;
  const auto add = [&](int64_t from, int64_t to, int64_t columns) {
    if (from >= to || columns == 0) return;
    runs.push_back({.column0 = first + from * step,
                    .columns = columns,
                    .residue_step = to - from > 1 ? static_cast<int32_t>(step) : 0,
                    .residues = static_cast<int16_t>(to - from),
                    .diagonal = diagonal,
                    .weight = weight,
                    .row_end = 1});
  };
  add(0, count % residues, count / residues + 1);
  add(count % residues, residues, count / residues);
}

// Between two ends of reaches, where all of `reaches` show their columns; the finest first.
void emit_interval(int64_t begin, int64_t end, int64_t row, int64_t stride, int64_t diagonal,
                   std::span<const Reach> reaches, std::vector<Run>& runs) {
  for (size_t n = 0; n < reaches.size();) {
    const int64_t rate = reaches[n].rate;
    while (n < reaches.size() && reaches[n].rate == rate) ++n;
    const auto weight = static_cast<int32_t>(n);
    if (n == reaches.size()) return emit(begin, end, row, rate, stride, weight, diagonal, runs);
    // The distances that the next rate does not divide.
    const int64_t next = reaches[n].rate;
    for (int64_t phase = rate; phase < next; phase += rate)
      emit(begin, end, row + phase, next, stride, weight, diagonal, runs);
  }
}

}  // namespace

int64_t runs_of_one_row(const ClassSpec& spec, const Scope& scope, std::vector<Run>& runs) {
  if (scope.transposed || scope.zero_keys || !spec.cells.empty() || spec.samplings.size() > kMostReaches) return 0;
  const Documents& documents = *spec.documents;
  const int64_t row = scope.row_begin;
  if (row >= documents.back()) return 1;
  const auto document_end = std::upper_bound(documents.begin(), documents.end(), row);
  std::array<Reach, kMostReaches> all;
  std::array<int64_t, 2 * kMostReaches> ends;
  size_t reaches = 0, count = 0;
  for (const Sampling& s : spec.samplings) {
    const Reach reach = reach_of(s, row, *(document_end - 1), *document_end, scope);
    if (reach.begin >= reach.end) continue;
    all[reaches++] = reach;
    ends[count++] = reach.begin;
    ends[count++] = reach.end;
  }
  const auto finer = [](const Reach& a, const Reach& b) { return a.rate < b.rate; };
  std::stable_sort(all.begin(), all.begin() + reaches, finer);
  for (size_t n = 1; n < reaches; ++n)
    if (all[n].rate % all[n - 1].rate != 0) return 0;
  const int64_t stride = reaches == 0 ? 1 : all[reaches - 1].rate;
  if (stride > kMostFusedStride) return 0;
  std::sort(ends.begin(), ends.begin() + count);
  for (size_t n = 1; n < count; ++n) {
    if (ends[n - 1] == ends[n]) continue;
    std::array<Reach, kMostReaches> here;
    const auto last = std::copy_if(all.begin(), all.begin() + reaches, here.begin(), [&](const Reach& reach) {
      return reach.begin <= ends[n - 1] && ends[n] <= reach.end;
    });
    const int64_t diagonal = scope.causal && ends[n] == row + 1 ? Run::kGrows : Run::kEverything;
    emit_interval(ends[n - 1], ends[n], row, stride, diagonal, {here.begin(), last}, runs);
  }
  return stride;
}

}  // namespace longstride::plan
