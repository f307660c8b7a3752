"""docs/semantics.md and docs/block_sparse.md evaluated pair by pair in plain torch, float64, O(len^2).

It knows nothing of the package, so a mistake in a pattern cannot agree with itself. Patterns are the dictionaries of
their JSON.
"""

import functools
import json
import math

import torch


def documents(len_k, batch_row, cu_seqlens=None, lengths=None):
    """[(begin, end)] of one batch row; positions in none see nothing."""
    if cu_seqlens is not None:
        return list(zip(cu_seqlens, cu_seqlens[1:]))
    return [(0, len_k if lengths is None else lengths[batch_row])]


def offset(dilated, g, kv_head, kv_heads):
    rate = dilated["dilation_rates"][g]
    if dilated.get("offsets") is not None:
        return dilated["offsets"][g * kv_heads + kv_head] % rate
    rule = dilated.get("head_offset", "modulo")
    return {"modulo": kv_head, "block": kv_head // math.ceil(kv_heads / rate), "group": g}[rule] % rate


def runs(dilated, g, kv_head, kv_heads):
    if dilated.get("mixing", "joint") == "joint":
        return True
    groups = len(dilated["segment_lengths"])
    ranges = [g for g in range(groups) for _ in range(kv_heads // groups + (g < kv_heads % groups))]
    return ranges[kv_head] == g


def near(window, b):
    """The distance in blocks that a window of tokens reaches."""
    return math.ceil(window / b) // 2


def block_is_active(block, nb, i, j, kv_head, batch_row):
    b, rule = block.get("block_size", 1), block["pattern"]
    if rule == "sliding_window":
        after, before = j - i <= block.get("right", j), i - j <= block.get("left", i)
        return j < block.get("sink_tokens", 0) or (after and before)
    if rule == "local_window":
        return abs(i - j) <= near(block["window"], b)
    if rule == "dilated_sparse":
        rates = block.get("rates", [1])
        rate = rates[kv_head % len(rates)]
        return abs(i - j) % rate == 0 and abs(i - j) // rate <= block["reach"]
    if rule == "global_local":
        first = math.ceil(block["global_tokens"] / b)
        return abs(i - j) <= near(block["window"], b) or i < first or j < first
    if rule == "strided":
        return abs(i - j) <= 1 or j % block["stride_blocks"] == 0
    if rule == "axial":
        columns = block.get("grid_columns") or math.ceil(math.sqrt(nb))
        return i // columns == j // columns or i % columns == j % columns
    if rule == "hierarchical":
        def level_shows(level):
            if i % (level["stride"] // b):
                return False
            return level.get("global", False) or abs(i - j) <= near(level["window"], b)

        return i == j or any(level_shows(level) for level in block["levels"])
    if rule == "list":
        return any(
            row in (-1, batch_row) and head in (-1, kv_head) and (query, key) == (i, j)
            for row, head, query, key in block["blocks"]
        )
    raise AssertionError(rule)


def counts(pattern, *arguments):
    """m [len_k, len_k] and the phantoms z [len_k] of one batch row and KV head."""
    return counts_of_text(json.dumps(pattern), json.dumps(arguments))


@functools.cache
def counts_of_text(pattern, arguments):
    return count_pairs(json.loads(pattern), *json.loads(arguments))


def count_pairs(pattern, len_k, kv_head, kv_heads, batch_row, cu_seqlens, lengths):
    m = torch.zeros(len_k, len_k, dtype=torch.float64)
    z = torch.zeros(len_k, dtype=torch.float64)
    causal = pattern.get("causal", False)
    dilated = pattern.get("dilated")
    for begin, end in documents(len_k, batch_row, cu_seqlens, lengths):
        n = end - begin
        for g in range(len(dilated["segment_lengths"]) if dilated else 0):
            if not runs(dilated, g, kv_head, kv_heads):
                continue
            w, r = dilated["segment_lengths"][g], dilated["dilation_rates"][g]
            for s in range(0, n, w):
                sampled = [p for p in range(s, min(s + w, n)) if (p - s) % r == offset(dilated, g, kv_head, kv_heads)]
                for q in sampled:
                    for k in sampled:
                        m[begin + q, begin + k] += k <= q or not causal
                    if dilated.get("padding") == "zero_keys" and not causal:
                        z[begin + q] += math.ceil(min(w, n) / r) - len(sampled)
        for q in range(n):
            for k in range(q + 1 if causal else n):
                m[begin + q, begin + k] += any(
                    block_is_active(
                        block, math.ceil(n / b), q // b, k // b, kv_head, batch_row,
                    )
                    for block in pattern.get("blocks", [])
                    for b in [block.get("block_size", 1)]
                )  # fmt: skip
    return m, z


def attention(q, k, v, pattern, *, cu_seqlens=None, lengths=None, scale=None, alibi_slopes=None, query_start=0):
    """(out, lse) in float64, differentiable."""
    q, k, v = (t.to(torch.float64) for t in (q, k, v))
    batch, len_q, heads, dim = q.shape
    len_k, kv_heads = k.shape[1:3]
    scale = 1 / math.sqrt(dim) if scale is None else scale
    outs, lses = [], []
    for b in range(batch):
        for h in range(heads):
            j = h // (heads // kv_heads)
            m, z = counts(pattern, len_k, j, kv_heads, b, cu_seqlens, lengths)
            rows = slice(query_start, query_start + len_q)
            m, z = m[rows], z[rows]
            scores = scale * q[b, :, h] @ k[b, :, j].T
            if alibi_slopes is not None:
                keys = torch.arange(len_k)
                scores = scores - alibi_slopes[h].double() * (keys[rows, None] - keys).abs()
            terms = m * scores.exp()
            total = z + terms.sum(1)
            nothing = total == 0
            safe = total.masked_fill(nothing, 1)
            outs.append(terms / safe[:, None] @ v[b, :, j])
            lses.append(safe.log().masked_fill(nothing, -torch.inf))
    out = torch.stack(outs).view(batch, heads, len_q, dim).transpose(1, 2)
    if (pattern.get("dilated") or {}).get("average"):
        out = out / len(pattern["dilated"]["segment_lengths"])
    return out, torch.stack(lses).view(batch, heads, len_q)
