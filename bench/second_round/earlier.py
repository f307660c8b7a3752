"""Lines of cuda_bench and cuda_peers.py, which came before, as those of a round: LongNet and dense attention, kernels alone, beside
the peers of the same call. Figures asked for are the cases' own."""

import re
from typing import Any

OURS = re.compile(r"(longnet_bfloat16_n131072|dense_bfloat16_n16384)_(d\d+)(_causal)?_(forward|backward)")
NAMES = {"longnet_bfloat16_n131072": "LongNet 128k", "dense_bfloat16_n16384": "dense 16k"}
PEERS = {
    "longnet_bfloat16_n131072": ("pipeline, cudnn", "per_group_cudnn_n131072"),
    "dense_bfloat16_n16384": ("cudnn", "dense_cudnn_n16384"),
}


def read(lines: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Of the last commit whose peers were measured."""
    from .cases import all_cases
    from .report import head, holds

    cases = {case.name: case for case in all_cases()}
    commit = [one["commit"] for one in lines if one["program"] == "cuda_peers.py"][-1]
    call = [one for one in lines if one["commit"] == commit]
    measured = {one["case"]: one for one in call}
    found = []
    for one in call:
        split = OURS.fullmatch(one["case"])
        if not split:
            continue
        kind, dim, causal, passes = split.groups(default="")
        case = cases.get(f"{NAMES[kind]} {dim.upper()}{causal.replace('_', ' ')} {passes}")
        if case is None:
            continue
        peer, peers_name = PEERS[kind]
        theirs, mine = measured[f"{peers_name}_{dim}{causal}"][f"{passes}_ms"], one["median_ms"]
        as_ratio = case.unit == "times the peer"
        value = round(mine / theirs, 4) if as_ratio else mine
        found.append(
            head(case)
            | {"value": value, "peer": peer, "peer_value": 1.0 if as_ratio else theirs, "accept": case.accept, "goal": case.goal}
            | {"holds": holds(value, case.unit, case.accept), "ours_ms": mine, "peer_ms": theirs}
        )
    order = list(cases)
    found.sort(key=lambda one: order.index(one["case"]))
    any_peer = next(one for one in call if "torch" in one)
    return {"gpu": any_peer["device"], "torch": any_peer["torch"], "commit": commit}, found
