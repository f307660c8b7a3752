"""Calls that the values and the gradients are tested on: (pattern, shape, options) by name."""

import torch

LIST = [[-1, -1, 0, 0], [0, -1, 2, 1], [1, 1, 3, 3], [-1, 0, 5, 2], [-1, 0, 5, 2]]


def groups(segment_lengths, dilation_rates, causal=False, **options):
    return {
        "causal": causal,
        "dilated": {"segment_lengths": segment_lengths, "dilation_rates": dilation_rates, **options},
    }


def rule(name, block_size, causal=False, **fields):
    return {"causal": causal, "blocks": [{"pattern": name, "block_size": block_size, **fields}]}


def window(left, right, causal=False, **fields):
    sides = {name: side for name, side in (("left", left), ("right", right)) if side is not None}
    return {"causal": causal, "blocks": [{"pattern": "sliding_window", **sides, **fields}]}


def union(*patterns):
    joined = {"causal": patterns[0]["causal"], "blocks": []}
    for pattern in patterns:
        joined["blocks"] += pattern.get("blocks", [])
        if "dilated" in pattern:
            joined["dilated"] = pattern["dilated"]
    return joined


SLOPES = torch.tensor([0.5, 0.0, -0.1, 3.0])
LEVELS = [{"stride": 3, "window": 6}, {"stride": 6, "window": 12}, {"stride": 12, "global": True}]
CASES = {
    "joint": (groups([4, 8], [1, 2]), {}, {}),
    "causal": (groups([4, 16], [1, 2], True), {}, {}),
    "rate above segment": (groups([3, 24], [5, 7]), {"heads": 3, "kv_heads": 3}, {}),
    "ragged segment": (groups([7, 100], [2, 3], True), {"length": 23}, {}),
    "offsets block": (groups([8, 16], [2, 4], head_offset="block"), {"heads": 6, "kv_heads": 6}, {}),
    "offsets group": (groups([8, 16], [2, 4], head_offset="group"), {}, {}),
    "offsets table": (groups([8, 16], [2, 4], offsets=[1, 0, 3, 6]), {}, {}),
    "head partition": (groups([4, 8, 16], [1, 2, 2], mixing="head_partition"), {"heads": 8, "kv_heads": 4}, {}),
    "average": (
        groups([4, 8], [1, 2], mixing="head_partition", average=True, head_offset="group"),
        {"heads": 4, "kv_heads": 2},
        {},
    ),
    "zero keys": (groups([5, 16], [1, 3], padding="zero_keys", head_offset="block"), {"length": 22}, {}),
    "one KV head": (groups([4, 16], [1, 2], True), {"heads": 4, "kv_heads": 1}, {}),
    "documents": (groups([4, 16], [1, 2], True), {}, {"cu_seqlens": [0, 7, 7, 24]}),
    "lengths": (groups([4, 16], [1, 2], padding="zero_keys"), {}, {"lengths": [24, 3]}),
    "empty row": (groups([4, 16], [1, 2]), {}, {"lengths": [0, 11]}),
    "decoding": (groups([4, 16], [1, 2], True), {"len_q": 3}, {"query_start": 20}),
    "scale": (groups([4, 16], [1, 2]), {}, {"scale": -1.3}),
    "scale of zero": (groups([4, 16], [1, 2]), {}, {"scale": 0.0}),
    "slopes": (groups([4, 16], [1, 2]), {}, {"alibi_slopes": SLOPES}),
    "slopes, documents": (groups([4, 16], [1, 2], True), {}, {"alibi_slopes": SLOPES, "cu_seqlens": [0, 7, 7, 24]}),
    "slopes, zero keys": (groups([5, 16], [1, 3], padding="zero_keys"), {}, {"alibi_slopes": SLOPES, "lengths": [24, 3]}),
    "slopes, decoding": (groups([4, 16], [1, 2], True), {"len_q": 3}, {"alibi_slopes": SLOPES, "query_start": 20}),
    "local_window": (rule("local_window", 4, window=12), {}, {}),
    "dilated_sparse": (rule("dilated_sparse", 2, True, rates=[1, 3], reach=2), {}, {}),
    "global_local": (rule("global_local", 4, window=5, global_tokens=3), {"length": 22}, {}),
    "strided": (rule("strided", 3, True, stride_blocks=4), {}, {}),
    "axial": (rule("axial", 2), {}, {}),
    "axial of columns": (rule("axial", 2, True, grid_columns=5), {"length": 23}, {}),
    "hierarchical": (rule("hierarchical", 3, levels=LEVELS), {}, {}),
    "sliding_window": (window(3, 2), {}, {}),
    "window and sinks": (window(5, None, True, sink_tokens=2), {"length": 23}, {"cu_seqlens": [0, 9, 23]}),
    "window, decoding": (window(6, 0, sink_tokens=1), {"len_q": 3}, {"query_start": 20}),
    "groups and window": (union(groups([4, 8], [1, 3], True), window(5, 0, True)), {}, {"lengths": [24, 13]}),
    "slopes and window": (window(5, None, True, sink_tokens=2), {}, {"alibi_slopes": SLOPES}),
    "list": (rule("list", 4, blocks=LIST), {}, {}),
    "union of rules": (
        union(rule("local_window", 4, True, window=8), rule("strided", 3, True, stride_blocks=3)),
        {},
        {"lengths": [24, 13]},
    ),
    "groups and rules": (
        union(groups([4, 8], [1, 3], True), rule("global_local", 4, True, window=4, global_tokens=2)),
        {"length": 23},
        {"cu_seqlens": [0, 10, 23]},
    ),
}
