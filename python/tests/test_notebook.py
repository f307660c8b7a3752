"""docs/notebooks: each runs from top to bottom in plain Python, its last expressions shown as a notebook shows them."""

import ast
import json
import pathlib
import re
import xml.etree.ElementTree

import pytest
import torch

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def displayed(code, namespace):
    """Runs a cell; what its last line evaluates to, if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace) if last else None


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["quick_start.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_pictures(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    with torch.random.fork_rng():
        shown = [displayed(source(cell), namespace) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    pictures = [value._repr_svg_() for value in shown if hasattr(value, "_repr_svg_")]
    assert len(pictures) >= 2
    for picture in pictures:
        assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")
    out = capsys.readouterr().out
    assert "out (1, 2048, 4, 32) lse (1, 4, 2048)" in out and "did you mean 'joint'" in out
    first, last = map(float, re.search(r"loss: (\S+), then (\S+)", out).groups())
    assert last < first
    assert not list(tmp_path.iterdir()), "a notebook leaves no files"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path):
    """Outputs hold machines' paths, and what they say may be true no more."""
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            for link in re.findall(r"\]\(([^)#]+)\)", source(cell)):
                assert (path.parent / link).exists(), link
