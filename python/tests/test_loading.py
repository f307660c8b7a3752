"""Finding and loading the library, each case in a process of its own."""

import os
import pathlib
import subprocess
import sys

import pytest

import longstride
from longstride import _library

PACKAGE = pathlib.Path(longstride.__file__).resolve().parent.parent
INSTALLED = "LONGSTRIDE_INSTALLED" in os.environ
STEP = """
q = torch.ones(1, 8, 1, 8, requires_grad=True)
out = ls.dilated_attention(q, q, q, [4], [1])
out.square().sum().backward()
assert torch.allclose(out, q) and q.grad.shape == q.shape
with torch.autocast("cpu"):
    assert ls.dilated_attention(q, q, q, [4], [1]).dtype == torch.bfloat16
assert ls.dilated_attention(*[q.detach().to("meta")] * 3, [4], [1]).is_meta
"""


def run(code, **environment):
    variables = {**os.environ, **environment}
    if not INSTALLED:
        variables["PYTHONPATH"] = f"{PACKAGE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=600)


def test_every_file_of_the_checkout_is_in_the_package():
    checkout = pathlib.Path(__file__).resolve().parent.parent / "longstride"
    files = [path.relative_to(checkout.parent) for path in checkout.rglob("*.py")]
    assert len(files) > 20
    # Not imported: compat.transformers would need transformers, which operators' tests do without.
    assert [file for file in files if not (PACKAGE / file).is_file()] == []


def test_importing_registers_once():
    done = run("import torch, longstride as ls\n" + STEP + "assert ls._registration.register() == []")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(INSTALLED, reason="a wheel has no library in LibTorch's full ABI")
@pytest.mark.parametrize("how", ("loaded before", "LONGSTRIDE_LIBRARY"))
def test_registrations_of_the_whole_library_are_used(how):
    whole = pathlib.Path(os.environ["LONGSTRIDE_LIBRARY"]).with_name("liblongstride.so")
    assert whole.is_file(), f"build the target longstride: there is no {whole}"
    before = f"torch.ops.load_library({str(whole)!r})" if how == "loaded before" else ""
    library = {"LONGSTRIDE_LIBRARY": str(whole)} if how == "LONGSTRIDE_LIBRARY" else {}
    code = f"import torch\n{before}\nimport longstride as ls\n" + STEP
    code += "assert 'GeneratedBackward' not in type(ls.dilated_attention(q, q, q, [4], [1]).grad_fn).__name__\n"
    code += "assert not ls._registration.gradients_are_ours\n"
    done = run(code, **library)
    assert done.returncode == 0, done.stderr


def error_of(code, **environment):
    done = run(code, **environment)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: longstride "), done.stderr
    assert "; torch found: 2." in last and ", wanted: >= 2.10; " in last
    return last


def test_no_library_there(tmp_path):
    missing = tmp_path / "none.so"
    text = error_of("import longstride", LONGSTRIDE_LIBRARY=str(missing))
    assert f"finds no library at {missing}" in text and "LONGSTRIDE_LIBRARY must name" in text


def test_a_file_that_is_no_library(tmp_path):
    (tmp_path / "text.so").write_text("no library")
    text = error_of("import longstride", LONGSTRIDE_LIBRARY=str(tmp_path / "text.so"))
    assert "cannot load" in text and "text.so: " in text and "pip install --force-reinstall longstride" in text
    assert "invalid ELF header" in text or "file too short" in text


def test_a_torch_that_is_too_old():
    text = error_of("import torch\ntorch.__version__ = '2.9.1+cpu'\nimport longstride")
    assert "torch found: 2.9.1+cpu, wanted: >= 2.10; pip install 'torch>=2.10'" in text


def test_operators_of_another_version():
    define = "lib.define('attention(Tensor q, Tensor k) -> Tensor')\nlib.define('attention_backward(Tensor q) -> Tensor')"
    text = error_of(f"import torch\nlib = torch.library.Library('longstride', 'DEF')\n{define}\nimport longstride")
    assert "operators of another version of its own, attention(q, k)" in text


def test_versions():
    for text, numbers in (("2.13.0+cpu", (2, 13)), ("2.10.0a0+git1", (2, 10)), ("2.9", (2, 9)), ("3.0rc1", (3, 0))):
        assert _library.version_of(text) == numbers
