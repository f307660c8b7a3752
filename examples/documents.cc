// Packed documents and decoding: the two calls in which positions and tensor rows are not the same thing.
// Built by test/package against an installed longstride, and run there: it checks what it claims.
#include <ATen/ATen.h>
#include <longstride/attention.h>

#include <cstdio>
#include <cstdlib>

namespace {

void expect_close(const char* what, const at::Tensor& got, const at::Tensor& expected) {
  const double difference = (got - expected).abs().max().item<double>();
  std::printf("%s: largest difference %.1e\n", what, difference);
  if (!(difference < 1e-4)) std::exit(1);
}

}  // namespace

int main() {
  at::manual_seed(0);
  const auto pattern = longstride::Pattern::dilated({64, 256}, {1, 4}, {.causal = true});
  const int64_t len = 700;
  const at::Tensor q = at::randn({1, len, 4, 32});
  const at::Tensor k = at::randn({1, len, 2, 32});  // two query heads to a KV head
  const at::Tensor v = at::randn({1, len, 2, 32});

  // Two documents in one row: each attends within itself, as if it had been given alone.
  longstride::AttentionOptions packed;
  packed.cu_seqlens = {0, 300, len};
  const at::Tensor together = longstride::attention(q, k, v, pattern, packed).out;
  const at::Tensor first =
      longstride::attention(q.narrow(1, 0, 300), k.narrow(1, 0, 300), v.narrow(1, 0, 300), pattern).out;
  expect_close("first of two packed documents", together.narrow(1, 0, 300), first);

  // One step of decoding: the last query alone, against all keys so far.
  longstride::AttentionOptions step;
  step.query_start = len - 1;
  const at::Tensor whole = longstride::attention(q, k, v, pattern).out;
  const at::Tensor last = longstride::attention(q.narrow(1, len - 1, 1), k, v, pattern, step).out;
  expect_close("one query at the end", last, whole.narrow(1, len - 1, 1));

  // Bad input is refused before any work, in words.
  try {
    longstride::attention(q, k, v.narrow(1, 0, 5), pattern);
    return 1;
  } catch (const longstride::Error& error) {
    std::printf("refused: %s\n", error.what());
  }
}
