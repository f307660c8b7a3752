"""use_engine(): calls on an engine by its name."""

import threading

import pytest
import torch

import longstride as ls


def call(dtype=torch.float32, requires_grad=False):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(1, 70, 2, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(requires_grad) for _ in "qkv"]


def attend(q, k, v):
    return ls.dilated_attention(q, k, v, [16, 64], [1, 4], causal=True)


def engine_of(*tensors):
    return ls.describe(*tensors, ls.Pattern.dilated([16, 64], [1, 4], causal=True)).engine


def test_calls_run_on_it_and_behind_it_as_before():
    tensors = call()
    before = attend(*tensors)
    with ls.use_engine("reference"):
        assert engine_of(*tensors) == "reference"
        plain = attend(*tensors)
        with ls.use_engine(""):
            assert engine_of(*tensors) == "cpu"
        assert engine_of(*tensors) == "reference"
    assert engine_of(*tensors) == "cpu"
    torch.testing.assert_close(plain, before)
    assert not torch.equal(plain, before)  # it sums in another order: this was another engine
    torch.testing.assert_close(attend(*tensors), before, rtol=0, atol=0)


def test_other_threads_and_backwards_too():
    tensors, seen = call(requires_grad=True), []
    d_out = torch.ones_like(tensors[0])
    usual = torch.autograd.grad(attend(*tensors), tensors, d_out)
    with ls.use_engine("reference"):
        thread = threading.Thread(target=lambda: seen.append(engine_of(*tensors)))
        thread.start()
        thread.join()
        plain = torch.autograd.grad(attend(*tensors), tensors, d_out)
    assert seen == ["reference"]
    for a, b in zip(plain, usual):
        torch.testing.assert_close(a, b)
        assert not torch.equal(a, b)


def test_it_ends_where_a_call_fails():
    with pytest.raises(ValueError, match="float64.*use_engine"), ls.use_engine("cpu"):
        attend(*call(torch.float64))
    assert engine_of(*call()) == "cpu" and engine_of(*call(torch.float64)) == "reference"


def test_names_that_nothing_has():
    with pytest.raises(ValueError, match=r"unknown engine 'referense'; one of \[cpu, reference.*did you mean 'reference'"):
        with ls.use_engine("referense"):
            pass
    with pytest.raises(ValueError, match="engine must be a name, got 3"):
        with ls.use_engine(3):
            pass
