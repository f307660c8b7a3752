"""doctor() and `python -m longstride`."""

import math
import subprocess
import sys

import pytest
import torch

import longstride as ls
from longstride import __main__, _doctor


def test_all_is_well():
    report = ls.doctor()
    assert report.passed, str(report)
    assert [check.dtype for check in report.checks if check.device == "cpu"] == list(_doctor.ALLOWED)
    for check in report.checks:
        # Each dtype rounds: an error of zero would be a check that compares nothing.
        assert check.refusal or 0 < check.error <= check.allowed
        assert check.refusal or 0 < check.error_of_gradients <= check.allowed
    assert ls.__version__ in str(report) and torch.__version__ in str(report) and str(report).endswith("All is well.")


@pytest.mark.parametrize("factor", (1.01, math.nan, math.inf))
@pytest.mark.parametrize("what", ("out", "lse"))
def test_wrong_numbers_are_seen(monkeypatch, capsys, what, factor):
    right = _doctor.dilated_attention

    def wrong(*arguments, **options):
        out, lse = right(*arguments, **options)
        return (out * factor, lse) if what == "out" else (out, lse * factor)

    monkeypatch.setattr(_doctor, "dilated_attention", wrong)
    report = ls.doctor()
    assert not report.passed and "WRONG" in str(report) and str(report).endswith("Something is wrong: see above.")
    assert __main__.main(["doctor"]) == 1
    assert "Something is wrong" in capsys.readouterr().out


def test_wrong_gradients_are_seen(monkeypatch):
    right = _doctor.dilated_attention

    def wrong(q, k, v, *arguments, **options):
        return right(q, k, v.detach() + 0 * v, *arguments, **options)

    monkeypatch.setattr(_doctor, "dilated_attention", wrong)
    checks = ls.doctor().checks
    assert not any(check.passed for check in checks if check.device == "cpu")
    assert all(check.error <= check.allowed for check in checks if check.device == "cpu")


def test_a_refusal_is_said_and_is_a_fault_unless_it_may_be():
    for may_refuse in (False, True):
        check = _doctor.Check("cpu", torch.float32, math.nan, math.nan, 1e-5, "no such engine", may_refuse)
        assert check.passed is may_refuse and str(check).endswith("refused: no such engine")


def test_an_engine_that_was_asked_for_is_checked_alone(capsys):
    right, taken = ls.doctor("reference"), ls.doctor("cpu")
    assert right.passed and not any(check.refusal for check in right.checks)
    # It takes float32 and less: what it refuses is said, and no fault.
    assert taken.passed and [check.dtype for check in taken.checks if check.refusal] == [torch.float64]
    assert __main__.main(["doctor", "--engine", "cpu"]) == 0
    assert "engine      cpu" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        __main__.main(["doctor", "--engine", "cqu"])
    assert end.value.code == 2
    assert "unknown engine 'cqu'" in capsys.readouterr().err


def test_nothing_was_checked_is_not_well(monkeypatch):
    monkeypatch.setattr(_doctor, "checked", lambda device, dtype, may: _doctor.Check(device, dtype, 0, 0, 1, "no", may))
    assert not ls.doctor("cpu").passed


def test_the_module_runs():
    path = f"import sys; sys.path[:0] = {sys.path!r}; sys.argv = ['longstride', 'doctor']; import runpy\n"
    code = path + "runpy.run_module('longstride', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "All is well." in done.stdout, done.stderr


def test_words_that_are_no_command(capsys):
    for words, text in (([], "required: command"), (["dcotor"], "invalid choice: 'dcotor'")):
        with pytest.raises(SystemExit) as end:
            __main__.main(words)
        assert end.value.code == 2 and text in capsys.readouterr().err
