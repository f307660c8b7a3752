"""longstride.bench: its peers compute what they stand for, and its tables say what was measured. No test asserts a time."""

import json
import runpy
import sys
import xml.etree.ElementTree

import pytest
import torch
import torchscale_algorithm
from support import close, inputs

import longstride as ls
from longstride import Pattern, __main__, _chart
from longstride.bench import __main__ as bench
from longstride.bench import cases, flex, memory, official, report
from longstride.bench.cases import Case

SVG = "{http://www.w3.org/2000/svg}"
GROUPS = Pattern.dilated([8, 32], [1, 2], causal=True)
ARGUMENTS = "--len 32 --heads 2 --dim 8 --segments 8,32 --rates 1,2 --repeats 2 --no-compile".split()


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("length", (48, 37))
def test_official_is_torchscales_algorithm(length, causal):
    """Segments that do not divide the length, rates that divide neither segments nor heads: it pads as torchscale does."""
    q, k, v = (x.double().requires_grad_() for x in inputs(6, 6, length))
    groups = [8, 16, 100], [1, 3, 4]
    out = official.official(q, k, v, *groups, causal, "block")
    wanted = torchscale_algorithm.dilated(q, k, v, *groups, causal, mixing_is_constant=True)
    close(out, wanted, 1e-10)
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for got, want in zip(torch.autograd.grad(out, (q, k, v), d_out), torch.autograd.grad(wanted, (q, k, v), d_out)):
        close(got, want, 1e-10)


@pytest.mark.parametrize("rule", ("modulo", "block"))
def test_official_is_ours_where_it_does_not_pad(rule):
    q, k, v = (x.double() for x in inputs(5, 5, 48))
    for causal in (False, True):
        out = official.official(q, k, v, [8, 16, 48], [1, 2, 4], causal, rule)
        close(out, ls.dilated_attention(q, k, v, [8, 16, 48], [1, 2, 4], causal=causal, head_offset=rule), 1e-10)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "pattern",
    (
        Pattern.dilated([8, 48], [1, 3], causal=True),
        Pattern.dilated([7, 100], [2, 3], head_offset="block"),
        Pattern.dilated([8, 16], [2, 4], head_offset="group"),
        Pattern.sliding_window(5, 2, sink_tokens=3),
        Pattern.sliding_window(5, causal=True) | Pattern.dilated([16], [2], causal=True),
        Pattern.block_sparse("global_local", 8, window=8, global_tokens=4),
        Pattern.block_sparse("dilated_sparse", 4, rates=[1, 2], reach=2, causal=True),
        Pattern.block_sparse("random", 8, density=0.4, seed=3) | Pattern.block_sparse("axial", 4),
        Pattern.block_sparse("hierarchical", 4, levels=[{"stride": 4, "window": 8}, {"stride": 16, "global": True}]),
    ),
)
def test_flex_is_ours(pattern):
    q, k, v = inputs(4, 2, 48, 16)
    attend = flex.Flex(pattern, q, k, compiled=False)
    assert attend.mask_seconds > 0
    # Rows that see nothing are FlexAttention's own affair.
    wanted = ls.attention(q, k, v, pattern)
    seen = pattern.mask(48, 2).any(2).T.repeat_interleave(2, 1)
    close(attend(q, k, v)[:, seen], wanted[:, seen])


def run(pattern=GROUPS, n=32, **options):
    case = {key: options.pop(key) for key in ("backward", "dtype", "kv_heads") if key in options}
    kv_heads = case.pop("kv_heads", 4)
    return cases.run_case(Case(pattern, n, 4, kv_heads, 8, **case), repeats=2, **{"compiled": False, **options})


def test_everybody_runs_once_a_round(monkeypatch):
    ran = []
    right = cases.once
    monkeypatch.setattr(cases, "once", lambda case, attend, tensors: ran.append(attend) or right(case, attend, tensors))
    result = run()
    assert [one.name for one in result.runs] == ["dense", "flex, not compiled", "official", "longstride"]
    assert not result.left_out and all(len(one.seconds) == 2 for one in result.runs)
    assert len(set(ran[-4:])) == 4 and ran[-4:] == ran[-8:-4]


@pytest.mark.parametrize("backward", (False, True))
def test_errors_are_those_of_the_peers(monkeypatch, backward):
    one_group = Pattern.dilated([16], [1])
    by_name = {one.name: one for one in run(one_group, backward=backward).runs}
    assert 0 < by_name["official"].error < 1e-5 and by_name["dense"].error is None
    if backward:  # with one group there is no mixing to be constant
        assert 0 < by_name["official"].error_of_gradients < 1e-5
    right = cases.attention
    monkeypatch.setattr(cases, "attention", lambda *arguments: 1.01 * right(*arguments))
    for one in run(one_group, backward=backward).runs:
        assert one.error is None or one.error > 1e-3
        assert one.error_of_gradients is None or one.error_of_gradients > 1e-3


def test_dense_is_compared_where_it_is_the_same_sum():
    for pattern, same in (
        (Pattern.dilated([32], [1]), True),
        (Pattern.dilated([100], [1], causal=True), True),
        (Pattern.sliding_window(causal=True), True),
        (Pattern.sliding_window(31), True),
        (Pattern.sliding_window(30), False),
        (Pattern.dilated([31], [1]), False),
        (Pattern.dilated([32], [2]), False),
        (Pattern.dilated([32, 32], [1, 1]), False),
    ):
        (dense, _) = run(pattern, peers=["dense"]).runs
        assert (dense.error is not None) is same and (dense.note == "") is same
        assert dense.error is None or dense.error < 1e-5


@pytest.mark.parametrize(
    "options, peer, words",
    (
        ({"dense_limit": 31}, "dense", "more tokens than --dense-limit, 31"),
        ({"dense_limit": 31}, "flex", "more tokens than --dense-limit, 31"),
        ({"n": 33}, "official", "segment 8 does not divide 33 tokens"),
        ({"pattern": Pattern.dilated([8, 32], [1, 3])}, "official", "segment 32 is no multiple of rate 3"),
        ({"pattern": Pattern.sliding_window(4)}, "official", "dilated groups alone"),
        ({"pattern": Pattern.dilated([8], [1], head_offset="group")}, "official", "offsets modulo or block"),
        ({"kv_heads": 2}, "official", "as many KV heads as heads, got 2 for 4"),
        ({"pattern": Pattern.dilated([8], [1], padding="zero_keys")}, "flex", "masked padding"),
    ),
)
def test_a_peer_that_cannot_says_why(options, peer, words):
    assert words in run(**options).left_out[peer]


def test_without_flex_attention(monkeypatch, capsys):
    monkeypatch.delattr(torch.nn.attention, "flex_attention", raising=False)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.flex_attention", None)
    assert bench.main(ARGUMENTS) == 0
    assert "flex did not run: torch" in capsys.readouterr().out


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        flexed = run(peers=["flex"], compiled=True).runs[0]
        assert (flexed.name, flexed.note) == ("flex, not compiled", "no C++ compiler (g++ or clang++)")

    def picky(pattern, q, k, compiled):
        if compiled:
            raise RuntimeError("no such thing\nand a trace")
        return flex.Flex(pattern, q, k, compiled)

    monkeypatch.setattr(cases, "compiler_missing", lambda device: "")
    with monkeypatch.context() as patch:
        patch.setattr(cases, "Flex", picky)
        flexed = run(peers=["flex"], compiled=True).runs[0]
        assert (flexed.name, flexed.note) == ("flex, not compiled", "RuntimeError: no such thing") and flexed.error < 1e-5
    # Traced as for a compiler, but not compiled, which takes a minute.
    right = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: right(function, **{**options, "backend": "eager"}))
    flexed = run(peers=["flex"], compiled=True).runs[0]
    assert (flexed.name, flexed.note) == ("flex, compiled", "") and flexed.error < 1e-5 and flexed.mask_seconds > 0


def test_the_table_the_json_and_the_chart(capsys, tmp_path):
    threads = torch.get_num_threads()
    files = tmp_path / "bench.json", tmp_path / "bench.svg"
    arguments = [*ARGUMENTS[2:], "--lens", "32,64,128", "--threads", str(threads + 1)]
    arguments += ["--json", str(files[0]), "--chart", str(files[1])]
    for main, command in ((bench.main, []), (__main__.main, ["bench"])):
        assert main([*command, *arguments]) == 0
        assert torch.get_num_threads() == threads
        out = capsys.readouterr().out
        found = json.loads(files[0].read_text(encoding="utf-8"))
        facts = found["machine"]
        assert facts["torch"] == torch.__version__ and facts["longstride"] == ls.__version__ and facts["threads"] == threads + 1
        assert report.machine_words(facts) == out.splitlines()[0] and facts["processor"] in out
        assert [case["len"] for case in found["cases"]] == [32, 64, 128]
        for case in found["cases"]:
            assert case["pattern"] == json.loads(Pattern.dilated([8, 32], [1, 2]).json()) and case["pass"] == "forward"
            assert set(case["runs"]) == {"longstride", "dense", "flex, not compiled", "official"}
            for one in case["runs"].values():
                assert one["min"] <= one["median"] <= one["max"] and len(one["seconds"]) == 2
                assert f"{report.milliseconds(one['median'])}  " in out
            assert case["runs"]["flex, not compiled"]["mask_seconds"] > 0
            assert case["runs"]["official"]["error"] < 1e-5
        root = xml.etree.ElementTree.fromstring(files[1].read_text(encoding="utf-8"))
        words = [text.text for text in root.iter(f"{SVG}text")]
        for wanted in ("length, in tokens", "median time, in ms", "longstride", "official", "flex, not compiled, without its mask"):
            assert wanted in words
        assert len(list(root.iter(f"{SVG}circle"))) == 4 * 3


def test_what_takes_long_is_said_before_it_begins(monkeypatch, capsys):
    said_when_it_began = []

    def compiles(pattern, q, k, compiled):
        said_when_it_began.append(capsys.readouterr())
        raise flex.LeftOut("as a test wants it")

    monkeypatch.setattr(cases, "compiler_missing", lambda device: "")
    monkeypatch.setattr(cases, "Flex", compiles)
    assert bench.main([argument for argument in ARGUMENTS if argument != "--no-compile"]) == 0
    (said,) = said_when_it_began
    assert said.err.startswith("flex: torch.compile of its mask and kernel for 32 tokens") and said.err.count("\n") == 1
    assert "--peers dense,official runs without it, --no-compile as it is" in said.err
    assert bench.main(ARGUMENTS) == 0 and capsys.readouterr().err == ""  # nothing is compiled


def test_peers_can_be_left_out(capsys):
    for peers, names in (("none", []), ("official", ["official"]), ("dense,official", ["dense", "official"])):
        assert bench.main([*ARGUMENTS, "--peers", peers]) == 0
        rows = capsys.readouterr().out.splitlines()[-len(names) - 1 :]
        assert [row.split()[0] for row in rows] == ["longstride", *names]


def test_memory_is_that_of_the_call(capsys, tmp_path):
    """The official algorithm holds copies of q, k, v and out of each group; ours of no whole tensor."""
    arguments = ["--len", "4k", "--segments", "4k,4k", "--rates", "1,2", "--peers", "official", "--repeats", "1", "--threads", "1"]
    assert bench.main([*arguments, "--memory", "--json", str(tmp_path / "bench.json")]) == 0
    out = capsys.readouterr().out
    (case,) = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["cases"]
    ours, theirs = (case["runs"][name]["extra_bytes"] for name in ("longstride", "official"))
    one = 4 * 4096 * 8 * 64  # bytes of a tensor like q
    assert 0 <= ours < 2 * one and 4 * one < theirs < 40 * one
    assert f"  {ours / 2**20:.1f}\n" in out and f"  {theirs / 2**20:.1f}\n" in out
    assert bench.main(ARGUMENTS) == 0 and "MiB" not in capsys.readouterr().out


def test_memory_that_nothing_tells(monkeypatch):
    def closed(device):
        raise OSError("no such file")

    monkeypatch.setattr(memory, "Peak", closed)
    assert memory.extra_bytes(Case(GROUPS, 32, 4, 4, 8), "official", False, torch.get_num_threads()) is None


def test_both_passes_in_the_table(capsys):
    assert bench.main([*ARGUMENTS, "--backward", "--peers", "official"]) == 0
    out = capsys.readouterr().out
    assert "forward + backward, 32 tokens, 2 heads of 8" in out and "of gradients" in out
    assert "its gradient takes the mixing for constant" in out


def test_charts_are_logarithmic():
    points = [(1024.0, 1.0), (2048.0, 10.0), (4096.0, 100.0)]
    picture = _chart.line_chart("a < b", "c & d\x00", "x", "y", [_chart.Line("line", points, [(y, y) for _, y in points])])
    root = xml.etree.ElementTree.fromstring(picture.svg)
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]
    for axis, sign in ((0, 1), (1, -1)):  # x to the right, y up
        steps = [sign * (dots[i + 1][axis] - dots[i][axis]) for i in range(2)]
        assert steps[0] > 100 and steps[0] == pytest.approx(steps[1], abs=0.02)
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a < b", "c & d?", "1k", "2k", "4k", "1", "10", "100", "x", "y", "line"} <= set(words)
    one = _chart.line_chart("", "", "x", "y", [_chart.Line("line", [(10001.0, 3.0)], [(2.0, 4.0)])])
    assert ">10001<" in one.svg


@pytest.mark.parametrize(
    "options, words",
    (
        ("--len 0", "must be a whole number >= 1, 32k being 32768, got '0'"),
        ("--lens 1k,x", "got 'x'"),
        ("--len 1k --lens 2k", "not allowed with argument"),
        ("--heads 3 --kv-heads 2", "--kv-heads must divide --heads, which is 3, got 2"),
        ("--repeats 0", "must be a whole number >= 1"),
        ("--threads -1", "must be a whole number >= 1"),
        ("--peers dense,flexx", "must be some of dense, flex, official, or none, got 'flexx'"),
        ("--peers dense,none", "got 'none'"),
        ("--dtype float8", "invalid choice"),
        ("--chart curve.png", "must end in .svg, got curve.png"),
        ("--json none/bench.json", "must be a file in a folder that is there, got none/bench.json"),
        ("--segments 4,8 --rates 1", "must have the same length: 2 != 1"),
    ),
)
def test_what_is_refused(capsys, options, words):
    with pytest.raises(SystemExit) as end:
        bench.main(options.split())
    said = capsys.readouterr()
    assert end.value.code == 2 and words in said.err and said.out == ""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_module_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("longstride.bench", run_name="__main__")
    assert end.value.code == 0 and "usage: python -m longstride.bench" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        bench.main(["--device", "cuda"])
    assert end.value.code == 2 and "--device must be one that torch sees, got cuda; use --device cpu" in capsys.readouterr().err
