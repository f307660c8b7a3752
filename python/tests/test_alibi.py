"""ALiBi beside what every test of values, gradients and refusals tries of it: its slopes, its functions, its modules."""

import math

import cases
import definition
import pytest
import torch
import torch._dynamo
from support import close, inputs
from torch.func import vmap

import longstride as ls
from longstride.nn import LongNetLM, MultiheadDilatedAttention, alibi_slopes, load_model, save_model

GROUPS = {"segment_lengths": [8, 32], "dilation_rates": [1, 2], "causal": True}


def x_of(length=20, width=32):
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(length))


# Of the paper's own code, get_slopes(n).
@pytest.mark.parametrize(
    "heads, slopes",
    (
        (1, [2**-8]),
        (2, [2**-4, 2**-8]),
        (8, [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]),
        (3, [2**-4, 2**-8, 2**-2]),
        (12, [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ),
)
def test_the_slopes_of_the_paper(heads, slopes):
    got = alibi_slopes(heads)
    assert got.dtype == torch.float32 and not got.requires_grad
    assert torch.equal(got, torch.tensor(slopes))
    for wrong in (0, -1, 2.0):
        with pytest.raises(ValueError, match="^heads must be"):
            alibi_slopes(wrong)


def test_every_function_takes_slopes():
    q, k, v = inputs()
    for one, pattern in (
        (ls.dilated_attention(q, k, v, [4, 16], [1, 2], alibi_slopes=cases.SLOPES), cases.groups([4, 16], [1, 2])),
        (ls.block_sparse_attention(q, k, v, "strided", 3, stride_blocks=4, alibi_slopes=cases.SLOPES),
         cases.rule("strided", 3, stride_blocks=4)),
        (ls.sliding_window_attention(q, k, v, 3, 2, alibi_slopes=cases.SLOPES), cases.window(3, 2)),
    ):  # fmt: skip
        close(one, definition.attention(q, k, v, pattern, alibi_slopes=cases.SLOPES)[0])


def test_far_keys_are_told_apart():
    # Two blocks of keys a quarter of a million tokens away: their scores are 60000 below, and 0.25 from each other.
    length, slope = 1 << 18, torch.tensor([0.25])
    q = torch.zeros(1, 1, 1, 8)
    k, v = torch.zeros(1, length, 1, 8), torch.arange(length, dtype=torch.float32).view(1, length, 1, 1).repeat(1, 1, 1, 8)
    pattern = ls.Pattern.block_sparse("list", 16, blocks=[[-1, -1, length // 16 - 1, 1]])
    out, lse = ls.attention(q, k, v, pattern, query_start=length - 1, alibi_slopes=slope, return_lse=True)
    keys = torch.arange(16, 32, dtype=torch.float64)
    scores = -0.25 * (length - 1 - keys)
    close(out[0, 0, 0, :1], (scores.softmax(0) @ keys)[None], 1e-6)
    close(lse[0, 0], scores.logsumexp(0)[None], 1e-6)


def test_under_vmap_slopes_are_those_of_every_entry():
    q, k, v = (torch.stack((t, t.flip(0))) for t in inputs())
    many = cases.SLOPES.expand(2, 4)
    with pytest.raises(ValueError, match="^alibi_slopes must be the same for every entry of vmap"):
        vmap(lambda q, k, v, slopes: ls.attention(q, k, v, ls.Pattern.dilated([8], [1]), alibi_slopes=slopes))(q, k, v, many)


def test_a_module_is_attention_with_the_slopes_of_its_heads():
    torch.manual_seed(1)
    with_slopes = MultiheadDilatedAttention(33, 3, **GROUPS, positions="alibi")  # 11 elements a head: nothing is turned
    without = MultiheadDilatedAttention(33, 3, **GROUPS)
    assert without.load_state_dict(with_slopes.state_dict()) and not list(with_slopes.buffers())
    x = x_of(width=33)
    q, k, v = with_slopes.project(x, x, x)
    out = ls.attention(q, k, v, with_slopes.attention.pattern, alibi_slopes=alibi_slopes(3))
    assert torch.equal(with_slopes(x)[0], with_slopes.out_proj(out.flatten(2)))
    assert (with_slopes(x)[0] - without(x)[0]).abs().max() > 1e-3
    close(with_slopes(x, position0=1000)[0], with_slopes(x)[0])


def test_a_module_takes_slopes_in_place_of_the_papers():
    torch.manual_seed(1)
    papers = MultiheadDilatedAttention(32, 4, **GROUPS, positions="alibi")
    given = MultiheadDilatedAttention(32, 4, **GROUPS, positions="alibi", alibi_slopes=(0.5, 0.0, 3, -0.01))
    same = MultiheadDilatedAttention(32, 4, **GROUPS, positions="alibi", alibi_slopes=alibi_slopes(4).tolist())
    assert given.config["alibi_slopes"] == [0.5, 0.0, 3, -0.01] and papers.config["alibi_slopes"] == []
    for module in (given, same):
        assert module.load_state_dict(papers.state_dict())
    x = x_of()
    q, k, v = given.project(x, x, x)
    out = ls.attention(q, k, v, given.attention.pattern, alibi_slopes=torch.tensor([0.5, 0.0, 3, -0.01]))
    assert torch.equal(given(x)[0], given.out_proj(out.flatten(2)))
    assert torch.equal(same(x)[0], papers(x)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "alibi", "alibi_slopes": (1, 2, 3)}, "alibi_slopes must have one slope for each of num_heads 4, or none, got 3"),
        ({"positions": "alibi", "alibi_slopes": (1, 2, 3, math.inf)}, r"alibi_slopes\[3\] must be finite, got inf"),
        ({"alibi_slopes": (1, 2, 3, 4)}, "alibi_slopes must be empty without positions alibi, got 4 slopes with positions none"),
    ],
)
def test_slopes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultiheadDilatedAttention(32, 4, **GROUPS, **options)


@pytest.mark.parametrize("slopes", ((), (1.0, 0.5, 0.25, 0.0)))
def test_a_module_is_compiled_once(slopes):
    torch._dynamo.reset()
    module = MultiheadDilatedAttention(32, 4, **GROUPS, positions="alibi", alibi_slopes=slopes)
    step = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    close(step(x_of(20))[0], module(x_of(20))[0], 1e-6)
    with torch.compiler.set_stance("fail_on_recompile"):
        for length in (33, 47):
            close(step(x_of(length))[0], module(x_of(length))[0], 1e-6)


@pytest.mark.parametrize("slopes", ((), (1.0, 0.5, 0.25, 0.0)))
def test_decoding_is_the_whole_and_a_saved_model_is_itself(tmp_path, slopes):
    torch.manual_seed(2)
    model = LongNetLM(11, 32, 2, 4, [4, 32], [1, 2], positions="alibi", kv_heads=2, alibi_slopes=slopes).eval()
    tokens = torch.randint(11, (2, 30), generator=torch.Generator().manual_seed(1))
    save_model(tmp_path / "model", model)
    again = load_model(tmp_path / "model").eval()
    with torch.no_grad():
        whole = model(tokens)
        assert torch.equal(again(tokens), whole)
        state = model.start_decoding(2, 30)
        for first, last in ((0, 7), (7, 8), (8, 30)):
            close(model.decode(tokens[:, first:last], state), whole[:, last - 1], 1e-4)
