"""bench/cuda_round.py: every case of it on the CPU, small; its lines, and the page that is made of them. No time is judged."""

import json
import pathlib
import re
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH, PAGE = ROOT / "bench" / "cuda_round.py", ROOT / "docs" / "ladder.md"
sys.path.append(str(ROOT / "bench"))

import second_round.cases  # noqa: E402
import second_round.peers  # noqa: E402
from second_round import report  # noqa: E402
from second_round.bench import Bench  # noqa: E402
from second_round.cases import Case, all_cases  # noqa: E402
from second_round.chart import drawn  # noqa: E402
from second_round.measures import UNITS, Measured, beside  # noqa: E402
from second_round.patterns import of_blocks, pairs_shown  # noqa: E402
from second_round.peers import Missing, Side  # noqa: E402


def run(*arguments):
    return subprocess.run([sys.executable, str(BENCH), *map(str, arguments)], capture_output=True, text=True, timeout=1200)


def test_every_case_runs_and_says_whether_it_holds(tmp_path):
    out = tmp_path / "round.jsonl"
    done = run("--device", "cpu", "--scale", 1024, "--repeats", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [json.loads(line) for line in done.stdout.splitlines()] == lines
    assert list(lines[0]) == ["machine"] and lines[0]["machine"]["scale"] == 1024
    cases = {case.name: case for case in all_cases()}
    assert [line["case"] for line in lines[1:]] == list(cases)
    for line in lines[1:]:
        assert "error" not in line, line
        case = cases[line["case"]]
        assert line["unit"] == case.unit and line["unit"] in UNITS
        assert (line["holds"] is None) == (case.accept is None)
        if line["value"] is None:
            assert line["peers_left_out"] and line["holds"] == "no peer here"
    page = report.page_text(out)
    assert "0 cases failed" in page and "| batch | 128 | 512 | 1024 | 2048 | 4096 |" in page


def test_list_names_what_is_asked_for():
    done = run("--list", "--only", "^dropout")
    assert done.stdout.splitlines() == [
        "dropout 0.1 forward  (N=32768 H16 D64, one group of 16k, bfloat16): times without, accept 1.6, goal 1.3; about 3 s",
        "dropout 0.1 backward  (N=32768 H16 D64, one group of 16k, bfloat16): times without, accept 1.4, goal 1.2; about 3 s",
    ]


def test_what_the_budget_leaves_out_is_named():
    done = run("--device", "cpu", "--only", "^largest error", "--budget", 0)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last == {"left_out": ["largest error of float32 out D64", "largest error of float32 out D128"], "why": "--budget 0"}


ENDS_ITS_PROCESS = """
import sys
sys.path.insert(0, {folder!r})
import cuda_round
import second_round.cases as cases
def died(bench):
    import os
    os._exit(3)
def failed(bench):
    raise RuntimeError("no kernel")
def spoils(bench):
    cuda_round.settle = lambda device: sys.exit(5)
    return well(bench)
def hung(bench):
    import time
    time.sleep(600)
def well(bench):
    from second_round.measures import Measured
    return Measured(1.0)
cases.all_cases = lambda: [cases.Case(n, "", "", "ms", 2.0, None, 0, m) for n, m in
                           (("a", spoils), ("b", died), ("c", failed), ("d", hung), ("e", well))]
cuda_round.SPARE_SECONDS = 10
cuda_round.__file__ = __file__
sys.exit(cuda_round.main())
"""


def test_a_case_that_fails_hangs_or_ends_its_process_does_not_end_the_others(tmp_path):
    script = tmp_path / "round.py"
    script.write_text(ENDS_ITS_PROCESS.format(folder=str(BENCH.parent)))
    done = subprocess.run([sys.executable, str(script), "--device", "cpu"], capture_output=True, text=True, timeout=600)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("case") for line in lines] == [None, "a", "b", "c", "d", "e"]
    errors = [None, "ended its process (3)", "RuntimeError: no kernel", "hung, and was stopped", None]
    assert [line.get("error") for line in lines[1:]] == errors
    assert [line["holds"] for line in lines[1:]] == [True, False, False, False, True]


def test_a_peer_that_fails_beside_the_others_leaves_ours_its_times():
    bench = Bench("cpu", 1, 1)
    tensors, called = bench.tensors(1, 4, 1, 8, torch.float32), []

    def fails_later(q, k, v):
        called.append(1)
        if len(called) > 1:
            raise RuntimeError("out of memory")
        return q

    side = lambda: Side(lambda q, k, v: q, tensors)  # noqa: E731
    found = beside(bench, side, {"peer": lambda: Side(fails_later, tensors)}, "forward", "ms")
    assert found.value is not None and found.peer_value is None and found.left_out == {"peer": "RuntimeError: out of memory"}


def test_the_quickest_peer_counts_and_one_that_is_missing_is_named():
    bench = Bench("cpu", 1, 1)
    tensors = bench.tensors(1, 4, 1, 8, torch.float32)
    taken = {"ours": 2.0, "slow": 8.0, "quick": 4.0}
    bench.clock.in_turns = lambda calls, gpu="": {name: [taken[name]] for name in calls}

    def missing():
        raise Missing("it needs a GPU")

    side = lambda: Side(lambda q, k, v: q, tensors)  # noqa: E731
    peers = {"slow": side, "quick": side, "none": missing}
    for unit, value, peer_value in (("ms", 2, 4), ("us", 2000, 4000), ("times the peer", 0.5, 1), ("TFLOP/s", 3, 1.5)):
        found = beside(bench, side, peers, "forward", unit, flops=6e9)
        assert (found.value, found.peer, found.peer_value) == (value, "quick", peer_value)
        assert found.left_out == {"none": "it needs a GPU"}


@pytest.mark.parametrize(
    "value, unit, accept, held",
    [(1, "ms", 1, True), (1.1, "ms", 1, False), (1.1, "TFLOP/s", 1, True), (0.9, "TFLOP/s", 1, False),
     (None, "ms", 1, "no peer here"), (1, "ms", None, None)],
)  # fmt: skip
def test_holds(value, unit, accept, held):
    assert report.holds(value, unit, accept) is held or report.holds(value, unit, accept) == held


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rule", ["global_local", "strided"])
def test_pairs_shown_are_those_of_the_mask(rule, causal):
    bench = Bench("cpu", 32, 1)  # blocks of 4
    assert pairs_shown(bench, rule, 256, causal) == int(of_blocks(bench, rule, causal).mask(256).sum())


def in_layout(tensors, shape):
    """[batch, len, heads, dim] as a peer has it."""
    if len(shape) == 3:
        return [x[0].transpose(0, 1).contiguous() for x in tensors]
    return tensors if tensors[0].shape == shape else [x.transpose(1, 2).contiguous() for x in tensors]


def cases_by_scale():
    """One of each computation, at a few hundred tokens. GigaPath's segments stay even, or torchscale's own code writes to wrong rows."""
    whole = r"(LongNet 128k|dense 16k|sm80 dense 16k) D64.*forward|float32 .*forward|Prov-GigaPath 10,001.*forward"
    named = rf"({whole}|window.*|(global_local|strided) 32k.*)$"
    for case in all_cases():
        if re.match(named, case.name):
            yield pytest.param(case, 16 if "GigaPath" in case.name else 128, id=case.name)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("case, scale", list(cases_by_scale()))
def test_peers_compute_what_ours_does(case, scale, monkeypatch):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def compare(bench, side, peers, *others, **options):
        ours = side()
        wanted = ours.forward(*ours.tensors).float()
        for make in peers.values():
            peer = make()
            got = peer.forward(*in_layout(ours.tensors, peer.tensors[0].shape)).float()
            if got.dim() == 3:
                got = got.transpose(0, 1)[None]
            elif got.shape != wanted.shape:
                got = got.transpose(1, 2)
            if "in blocks" not in next(iter(peers)):  # which show some pairs more
                torch.testing.assert_close(got, wanted, rtol=0.03, atol=0.03)
        compared.append(len(peers))
        return Measured(None)

    compared = []
    plain = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    monkeypatch.setattr(second_round.cases, "beside", compare)
    monkeypatch.setattr(second_round.peers, "needs_gpu", lambda *words: None)
    monkeypatch.setattr(second_round.peers, "compiled_flex", lambda: (flex_attention, create_block_mask))
    monkeypatch.setattr(second_round.peers.cuda_peers, "attend", lambda kernel, q, k, v, causal: plain(q, k, v, 0.0, causal))
    case.measure(Bench("cpu", scale, 1))
    assert compared and compared[0] > 0


def line_of(name, unit, value, peer_value, accept, goal=None):
    case = Case(name, "N=1", "bfloat16", unit, accept, goal, 1, None)
    return report.line(case, Measured(value, "a peer", peer_value))


def test_the_chart_draws_shares_of_the_peers_time():
    lines = [line_of("a forward", "ms", 2, 4, 3), line_of("b", "TFLOP/s", 200, 100, 400), line_of("c", "ms", 1, None, 2)]
    assert str(drawn({}, lines)).splitlines()[1:] == ["a forward: 0.50", "b: 0.50"]
    rows = report.table([*lines, line_of("a backward", "ms", 9, 8, 7)])[2:]
    assert rows[0] == "| a forward / backward | ms | 2 / 9 | a peer: 4 / 8 | 3 / 7 | - / - | yes / **no** |"
    assert rows[1] == "| b | TFLOP/s | 200 | a peer: 100 | 400 | - | **no** |"


def test_the_ladder_agrees_with_the_lines_that_it_names():
    page = PAGE.read_text(encoding="utf-8")
    source = re.search(r"<!-- cuda_round: (\S+) -->", page)[1]
    assert report.written(page, source, report.page_text(ROOT / source)) == page, "run the command on the page again"
    chart = drawn(*report.read(ROOT / source)).svg
    assert chart == (ROOT / "docs" / "pictures" / "ladder.svg").read_text(encoding="utf-8")


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="must hold <!-- cuda_round: FILE --> once"):
        report.written("a page", "x.jsonl", "text")
