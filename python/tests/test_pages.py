"""The Python blocks of the pages, run as they stand there."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PRINTED = {
    "README.md": r"out \(1, 16384, 8, 64\) lse \(1, 8, 16384\) \|dq\| \d+\.\d+(e-\d+)?\n",
    "docs/python.md": "",
    "docs/transformers.md": "",
    "docs/coming_from.md": "",
}


@pytest.mark.parametrize("page", PRINTED)
def test_a_page_runs(page):
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    # The tests' own search path finds the package, in the checkout or where it is installed.
    path = f"import sys\nsys.path[:0] = {sys.path!r}\n"
    done = subprocess.run([sys.executable, "-c", path + "\n".join(blocks)], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTED[page], done.stdout), done.stdout
