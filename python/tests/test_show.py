"""Pattern.show(), and `python -m longstride show`."""

import dataclasses
import re
import xml.etree.ElementTree

import cases
import definition
import pytest
import torch
from test_values import pattern_of

from longstride import Pattern, __main__, _show, _sight, describe

SVG = "{http://www.w3.org/2000/svg}"
BOX = re.compile(r"M(\d+) (\d+)h(\d+)v(\d+)h-(\d+)z")
COUNTED = [name for name, (_, _, options) in cases.CASES.items() if not {"lengths", "cu_seqlens"} & set(options)]


def counted(pattern, n, heads=1, batch_row=0):
    columns = _sight.counted_columns(pattern.json(), None, n, heads, batch_row)
    return torch.cat([seen for _, seen in columns], 2)


def panels(svg):
    """(x, y, {(row, column): colour}) of each panel, read back from its paths."""
    found = []
    for group in xml.etree.ElementTree.fromstring(svg).iter(f"{SVG}g"):
        cells = {}
        for path in group.iter(f"{SVG}path"):
            for column, row, columns, rows, back in (map(int, box) for box in BOX.findall(path.get("d"))):
                assert columns == back
                for y in range(row, row + rows):
                    for x in range(column, column + columns):
                        assert (y, x) not in cells, "two boxes lie over each other"
                        cells[y, x] = path.get("fill")
        place = re.match(r"translate\((\S+) (\S+)\)", group.get("transform"))
        found.append((float(place[1]), float(place[2]), cells))
    return found


@pytest.mark.parametrize("name", COUNTED)
def test_counts_are_the_definitions(name):
    pattern, shape, _ = cases.CASES[name]
    heads, n = shape.get("kv_heads", 2), shape.get("length", 24)
    wanted = [definition.counts(pattern, n, j, heads, 0, None, None)[0] for j in range(heads)]
    assert torch.equal(counted(pattern_of(pattern), n, heads).double(), torch.stack(wanted))


def test_cells_are_means_of_what_they_hold():
    pattern = Pattern.dilated([40, 300], [1, 3], causal=True)
    pairs = counted(pattern, 301, 2)
    cells = _sight.counted_cells(pattern.json(), None, 301, 2, 0, 64)
    assert cells.side == 8 and cells.sums.shape == (2, 38, 38)
    small = cells.joined(16)
    assert small.side == 32 and small.sums.shape == (2, 10, 10)
    for grid in (cells, small):
        for row, column in ((0, 0), (3, 1), (grid.sums.size(1) - 1, 2), (grid.sums.size(1) - 1,) * 2):
            side = grid.side
            held = pairs[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            torch.testing.assert_close(grid.mean()[:, row, column], held.mean((1, 2)))


@pytest.mark.parametrize(
    "pattern",
    (
        Pattern.dilated([8, 24], [1, 3], causal=True),
        Pattern.dilated([4, 8, 24], [1, 2, 4]) | Pattern.block_sparse("global_local", 4, window=8, global_tokens=4),
        Pattern.sliding_window(5, 2, sink_tokens=3),
    ),
)
def test_the_picture_has_each_pair_in_its_shade(pattern):
    found = panels(pattern.show(24, 3).svg)
    assert len(found) == 3
    assert found[0][0] < found[1][0] < found[2][0] and len({y for _, y, _ in found}) == 1, "side by side"
    for (_, _, cells), wanted in zip(found, counted(pattern, 24, 3)):
        for q in range(24):
            for k in range(24):
                assert cells.get((q, k), "") == _show.colour_of(wanted[q, k].item(), True)


def test_the_picture_of_a_long_sequence_has_shares():
    pattern = Pattern.dilated([512, 2048], [1, 4])
    ((_, _, cells),) = panels(pattern.show().svg)
    mean = _sight.counted_cells(pattern.json(), None, 2048, 1, 0, _show.PICTURE_CELLS).mean()[0]
    assert mean.shape == (128, 128)
    assert all(cells.get((q, k), "") == _show.colour_of(mean[q, k].item(), False) for q in range(128) for k in range(128))
    assert "a cell of 16 x 16 tokens" in pattern.show().svg


def test_darker_is_more():
    def light(colour):
        return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5))

    for single, counts in ((True, (1, 2, 3, 4)), (False, (1 / 512, 1 / 64, 1 / 4, 1, 2, 3))):
        shades = [light(_show.colour_of(count, single)) for count in counts]
        assert shades == sorted(set(shades), reverse=True)
    assert _show.colour_of(0, True) == _show.colour_of(0, False) == ""


def test_words_of_a_picture():
    picture = Pattern.dilated([4, 8], [1, 2], causal=True).show(8, 5)
    words = [text.text for text in xml.etree.ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]
    for wanted in ("key position, in tokens", "query position, in tokens", *(f"KV head {j}" for j in range(5))):
        assert wanted in words
    assert "Pattern.dilated([4, 8], [1, 2], causal=True)" in words
    rows = [y for _, y, _ in panels(picture.svg)]
    assert rows[0] == rows[3] < rows[4], "four in a row"
    assert str(picture).startswith("8 tokens, 5 KV heads: 120 pairs seen, 37.5 % of all\n")
    assert str(Pattern.dilated([2, 4], [1, 2], causal=True).show(4)).endswith(
        "queries down, keys right\n2 . . .\n1 1 . .\n1 . 2 .\n. . 1 1"
    )
    assert str(Pattern.block_sparse("local_window", 64, window=64).show(128 * 4)).count("#") > 0


def test_a_picture_is_a_value_that_notebooks_show(tmp_path):
    pattern = Pattern.sliding_window(3, 0)
    picture = pattern.show()
    assert picture == pattern.show() and picture._repr_svg_() == picture.svg
    assert repr(picture) == "<Picture: 32 tokens, 1 KV head: 122 pairs seen, 11.9 % of all>"
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.svg = ""
    picture.save(tmp_path / "window.svg")
    assert (tmp_path / "window.svg").read_text(encoding="utf-8") == picture.svg
    for path, words in (("window.png", "^path must end in .svg"), ("none/window.svg", "^path must be in a folder that is there")):
        with pytest.raises(ValueError, match=words):
            picture.save(tmp_path / path if path.startswith("w") else path)


def test_lengths_that_tell():
    for pattern, n in (
        (Pattern.dilated([64, 512], [1, 4]), 512),
        (Pattern.dilated([10**6], [4]), 2048),
        (Pattern.dilated([4], [1]), 32),
        (Pattern.block_sparse("strided", 16, stride_blocks=3), 256),
        (Pattern.sliding_window(), 32),
        (Pattern.sliding_window(63, 0, sink_tokens=4), 260),
        (Pattern.block_sparse("list", 16, blocks=[[-1, -1, 4, 0]]), 80),
    ):
        assert f"{n} tokens" in str(pattern.show())


def test_empty_sequences_and_lists_of_the_call():
    assert "0 tokens" in str(Pattern.dilated([4], [1]).show(0))
    blocks = torch.tensor([[1, -1, 1, 0]], dtype=torch.int32)
    picture = Pattern.block_sparse("list", 2).show(4, batch_row=1, blocks=blocks)
    assert str(picture).endswith(". . . .\n. . . .\n1 1 . .\n1 1 . .")


@pytest.mark.parametrize(
    "arguments, words",
    (
        ((-1,), "^n must be an integer >= 0, got -1"),
        ((4.0,), "^n must be an integer >= 0, got 4.0"),
        ((8, 0), "^heads must be an integer >= 1, got 0"),
        ((2**20,), r"^n must have heads x n x n <= 2\^31 to be drawn, got 1048576 with heads 1; show fewer tokens"),
    ),
)
def test_what_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Pattern.dilated([4], [1]).show(*arguments)


def test_plans_from_a_shell(capsys):
    q = torch.empty(1, 1, 1, 64).expand(1, 1 << 20, 2, 64)  # more pairs than a picture takes
    arguments = ["show", "--segments", "4k,64k", "--rates", "1,8", "--causal", "--len", "1m", "--heads", "2", "--plan"]
    assert __main__.main(arguments) == 0
    wanted = str(describe(q, q, q, Pattern.dilated([4096, 65536], [1, 8], causal=True)))
    assert capsys.readouterr().out == wanted + "\n"
    assert __main__.main(["show", "--window", "3", "--plan", "--text"]) == 0
    both = capsys.readouterr().out
    assert both.startswith("engine: cpu\nforward plan: 32 queries") and str(Pattern.sliding_window(3, 3).show()) in both


def test_the_command(capsys, tmp_path):
    pattern = Pattern.dilated([4, 8], [1, 2], causal=True)
    assert __main__.main(["show", "--segments", "4,8", "--rates", "1,2", "--causal", "--len", "8", "--heads", "2"]) == 0
    assert capsys.readouterr().out == f"{pattern.show(8, 2)}\n"
    (tmp_path / "pattern.json").write_text(pattern.json())
    file = tmp_path / "picture.svg"
    for given in (pattern.json(), str(tmp_path / "pattern.json")):
        assert __main__.main(["show", "--pattern", given, "--len", "1k", "--out", str(file)]) == 0
        assert capsys.readouterr().out == f"wrote {file}\n"
        assert file.read_text(encoding="utf-8") == pattern.show(1024).svg
        file.unlink()
    assert __main__.main(["show", "--window", "3", "--sinks", "1", "--out", str(file), "--text"]) == 0
    assert capsys.readouterr().out == f"{Pattern.sliding_window(3, 3, sink_tokens=1).show()}\nwrote {file}\n"


@pytest.mark.parametrize(
    "options, words",
    (
        ("--len 3.5", "must be a whole number >= 0, 32k being 32768, got '3.5'"),
        ("--heads 0", "must be a whole number >= 1"),
        ("--out picture.png", "must end in .svg, got picture.png"),
        ("--out none/picture.svg", "must be in a folder that is there"),
        ("--segments 4", "--segments and --rates must be given both or neither, got --segments alone"),
        ("--segments 4,8 --rates 1", "segment_lengths and dilation_rates must have the same length: 2 != 1"),
        ("--pattern none.json", "--pattern must be JSON, which begins with {, or a file of it, got 'none.json'"),
        ('--pattern {"dilatd":{}}', "did you mean 'dilated'"),
        ('--pattern {"dilated":{}} --causal', "got --causal too; write them into its JSON"),
        ("--window 4 --rates 2", "got --rates too; give a union as JSON"),
        ("--window 1,2,3", "--window must be LEFT or LEFT,RIGHT, got 3 numbers"),
        ("--sinks 4", "--sinks must come with --window"),
        ("--len 1m", "show fewer tokens"),
        ("--tex", "unrecognized arguments: --tex"),
    ),
)
def test_options_that_are_refused(capsys, monkeypatch, tmp_path, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        __main__.main(["show", "--text", *options.split(" ")])
    said = capsys.readouterr()
    assert end.value.code == 2 and words in said.err and said.out == ""
    assert not list(tmp_path.iterdir())


def test_the_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        __main__.main(["--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and all(f"\n    {name} " in out for name in ("doctor", "bench", "show", "compare"))
