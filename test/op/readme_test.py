"""Runs the README's Python block as it stands there, but for the path of the library.

usage: readme_test.py PATH/TO/liblongstride.so
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH_IN_README = "build/src/liblongstride.so"

(program,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
assert PATH_IN_README in program, f"the README's Python block no longer loads {PATH_IN_README}"
printed = subprocess.run(
    [sys.executable, "-c", program.replace(PATH_IN_README, sys.argv[1])], stdout=subprocess.PIPE, text=True, check=True
).stdout
print(printed)
assert re.fullmatch(r"out \(1, 16384, 8, 64\) lse \(1, 8, 16384\) \|dq\| \d+\.\d+(e-\d+)?\n", printed), printed
