"""compat.torchscale.DilatedAttention: values, gradients, keys, caches and refusals, against torchscale_algorithm.py."""

import copy
import pickle
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from support import close
from torchscale_algorithm import attend

from longstride.compat.torchscale import DilatedAttention

HEADS, WIDTH = 4, 32


def config(segments=(16, 40), rates=(1, 2), **options):
    return SimpleNamespace(
        flash_attention=True, segment_length=list(segments), dilated_ratio=list(rates), **{"multiway": False, **options}
    )


def module_of(args, heads=HEADS, width=WIDTH, seed=5, **options):
    torch.manual_seed(seed)
    module = DilatedAttention(args, width, heads, **{"self_attention": True, "subln": True, **options})
    with torch.no_grad():  # norms that are not the identity
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def x_of(length, batch=2, width=WIDTH, seed=3):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


# (segments, rates, length, heads, width): all but the last two have rates that divide the segments.
SHAPES = {
    "whole segments": ([16, 32], [1, 2], 64, 4, 32),
    "odd length": ([16, 32, 64], [1, 2, 4], 101, 4, 32),
    "shorter than every segment": ([64, 1024, 4096], [1, 2, 4], 37, 4, 32),
    "shorter than some": ([8, 1024], [1, 4], 23, 4, 32),
    "a rate that does not divide the heads": ([16, 64], [1, 4], 50, 6, 48),
    "a rate above the heads": ([16, 48], [1, 8], 55, 4, 32),
    "rows that no group samples": ([16, 64], [2, 4], 71, 2, 16),
    "one token": ([16, 64], [1, 2], 1, 4, 32),
    "GigaPath's rates, dim 48": ([16, 90, 512, 2896, 16384], [1, 2, 4, 8, 16], 131, 16, 768),
    "a rate that does not divide the segment": ([15, 45], [2, 4], 100, 4, 32),
}


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_the_algorithms(shape, causal):
    segments, rates, length, heads, width = SHAPES[shape]
    module = module_of(config(segments, rates), heads, width)
    x = x_of(length, width=width).requires_grad_()
    out, nothing = module(x, x, x, is_causal=causal)
    assert nothing is None
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    (out * weights).sum().backward()

    exact = copy.deepcopy(module).double()
    y = x.detach().double().requires_grad_()
    wanted = attend(dict(exact.named_parameters()), y, heads, segments, rates, causal)
    exact.zero_grad()
    (wanted * weights).sum().backward()
    close(out, wanted)
    pairs = [("x", x, y)] + [(n, p, dict(exact.named_parameters())[n]) for n, p in module.named_parameters()]
    for name, got, want in pairs:
        size = want.grad.abs().max().item()
        assert (got.grad - want.grad).abs().max() <= 1e-5 * max(1.0, size), name


def test_the_gradient_goes_through_the_mixing():
    """torchscale's does not: the one difference in its numbers that is wanted."""
    module, x = module_of(config()).double(), x_of(50).double().requires_grad_()
    module(x, x, x)[0].square().sum().backward()
    state = dict(module.named_parameters())
    grads = []
    for constant in (False, True):
        y = x.detach().requires_grad_()
        attend(state, y, HEADS, [16, 40], [1, 2], mixing_is_constant=constant).square().sum().backward()
        grads.append(y.grad)
    close(x.grad, grads[0], 1e-9)
    assert (x.grad - grads[1]).abs().max() > 1e-2


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("subln", (False, True))
def test_xpos(causal, subln):
    module = module_of(config(xpos_rel_pos=True, xpos_scale_base=64), subln=subln)
    x = x_of(75)
    wanted = attend(module.double().state_dict(), x.double(), HEADS, [16, 40], [1, 2], causal, xpos_base=64)
    close(module.float()(x, x, x, is_causal=causal)[0], wanted)
    plain = attend(module.double().state_dict(), x.double(), HEADS, [16, 40], [1, 2], causal)
    assert (plain - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("split", (-1, 0, 20))
def test_multiway(split):
    module, x = module_of(config(multiway=True)), x_of(50)
    for part in module.modules():  # as torchscale's set_split_position does it
        if hasattr(part, "split_position"):
            part.split_position = split
    wanted = attend(module.double().state_dict(), x.double(), HEADS, [16, 40], [1, 2], split=split)
    close(module.float()(x, x, x)[0], wanted)


PROJECTIONS = {f"{name}_proj.{leaf}" for name in ("k", "v", "q", "out") for leaf in ("weight", "bias")}
NORM = {"inner_attn_ln.weight", "inner_attn_ln.bias"}


@pytest.mark.parametrize(
    "args, options, keys",
    (
        ({}, {"subln": False}, PROJECTIONS),
        ({}, {}, PROJECTIONS | NORM),
        ({"xpos_rel_pos": True}, {}, PROJECTIONS | NORM | {"xpos.scale"}),
        ({"xpos_rel_pos": True}, {"self_attention": False, "encoder_decoder_attention": True}, PROJECTIONS),
        ({"multiway": True}, {}, {k.replace(".", f".{way}.") for k in PROJECTIONS | NORM for way in "AB"}),
    ),
)
def test_the_keys_are_torchscales_and_load(args, options, keys):
    module, other = module_of(config(**args), **options), module_of(config(**args), **options, seed=6)
    assert set(module.state_dict()) == keys
    x = x_of(50)
    assert not torch.equal(module(x, x, x)[0], other(x, x, x)[0])
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x, x, x)[0], other(x, x, x)[0])


def test_reset_parameters_is_torchscales_initialisation():
    for multiway in (False, True):
        module = module_of(config(multiway=multiway))
        module.reset_parameters()
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and "proj" in name:
                bound = (6 / (2 * WIDTH)) ** 0.5 * (1 if "out" in name else 0.5**0.5)
                assert 0.95 * bound < parameter.abs().max() <= bound, name
        assert not any(p.any() for n, p in module.named_parameters() if "out_proj" in n and "bias" in n)


@pytest.mark.parametrize(
    "segments, rates",
    (
        ("[16, 40]", "[1,2]"),
        ("(16, 40,)", "1, 2"),
        ("[np.int64(16), np.int64(40)]", "[1, 2]"),  # str() of a list of NumPy 2's integers
        ((16, 40), torch.tensor([1, 2])),
    ),
)
def test_lists_and_their_texts(segments, rates):
    args, x = config(), x_of(50)
    args.segment_length, args.dilated_ratio = segments, rates
    module, plain = module_of(args), module_of(config())
    assert torch.equal(module(x, x, x)[0], plain(x, x, x)[0])
    args.segment_length = "[8, 40]"  # read in each call, as torchscale reads it
    assert not torch.equal(module(x, x, x)[0], plain(x, x, x)[0])


@pytest.mark.parametrize("xpos", (False, True))
@pytest.mark.parametrize("steps", ([1] * 45, [7, 1, 1, 20, 16], [45]))
def test_decoding_gives_what_the_whole_sequence_gives(xpos, steps):
    module, x = module_of(config(xpos_rel_pos=xpos)).eval(), x_of(45)
    whole = module(x, x, x, is_causal=True)[0]
    state, parts, at = {}, [], 0
    for count in steps:
        step = x[:, at : at + count]
        parts.append(module(step, step, step, incremental_state=state, is_first_step=at == 0, is_causal=True)[0])
        at += count
        assert state["prev_key"].shape == state["prev_value"].shape == (2, HEADS, at, WIDTH // HEADS)
    close(torch.cat(parts, 1), whole)
    # Beam search reorders the rows of a cache.
    state = {name: past.index_select(0, torch.tensor([1, 0])) for name, past in state.items()}
    step = x_of(1, seed=4)
    got = module(step, step, step, incremental_state=state, is_causal=True)[0]
    longer = torch.cat([x.flip(0), step], 1)
    close(got, module(longer, longer, longer, is_causal=True)[0][:, -1:])


def test_a_refused_step_leaves_the_cache_as_it_was():
    module, x = module_of(config(xpos_rel_pos=True, xpos_scale_base=1.0)), x_of(60)
    state = {}
    module(x, x, x, incremental_state=state, is_causal=True)
    words = r"^len must satisfy 0.905 \* len / args.xpos_scale_base <= 60 in Float, got len 120"
    with pytest.raises(ValueError, match=words):
        module(x, x, x, incremental_state=state, is_causal=True)
    assert state["prev_key"].size(2) == 60


def test_padding_masks():
    module, x = module_of(config()), x_of(50)
    whole = module(x, x, x)[0]
    none, some = torch.zeros(2, 50, dtype=torch.bool), torch.arange(50) >= torch.tensor([50, 21])[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(module(x, x, x, key_padding_mask=none)[0], whole)
    with pytest.warns(UserWarning, match="honour_key_padding=True leaves it out"):
        assert torch.equal(module(x, x, x, key_padding_mask=some)[0], whole)
    module.honour_key_padding = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(module(x, x, x, key_padding_mask=none)[0], whole)
        short = x[1:, :21]
        close(module(x, x, x, key_padding_mask=some)[0][1:, :21], module(short, short, short)[0])
    with pytest.raises(ValueError, match="^key_padding_mask must be true at the end of rows only"):
        module(x, x, x, key_padding_mask=some.flip(1))


def test_a_mask_on_a_device_is_not_read():
    """Reading one waits for the device. The meta device has nothing to read: asking raises."""
    module, x = module_of(config()).to("meta"), x_of(50).to("meta")
    mask = torch.zeros(2, 50, dtype=torch.bool, device="meta")
    assert module(x, x, x, key_padding_mask=mask)[0].shape == x.shape
    module.honour_key_padding = True
    with pytest.raises((RuntimeError, NotImplementedError)):
        module(x, x, x, key_padding_mask=mask)


def test_dropout_is_drawn_in_training_alone():
    module, x = module_of(config(), dropout=0.5), x_of(50)
    torch.manual_seed(3)
    first, second = module(x, x, x)[0], module(x, x, x)[0]
    torch.manual_seed(3)
    assert torch.equal(first, module(x, x, x)[0]) and not torch.equal(first, second)
    module.eval()
    close(module(x, x, x)[0], attend(module.state_dict(), x, HEADS, [16, 40], [1, 2]))


def test_copies_share_nothing():
    module, x = module_of(config(xpos_rel_pos=True, multiway=True)).eval(), x_of(50)
    wanted = module(x, x, x)[0]
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x, x, x)[0], wanted)
        other.args.segment_length = [8, 40]
        with torch.no_grad():
            other.out_proj.A.weight.zero_()
    assert torch.equal(module(x, x, x)[0], wanted)


@pytest.mark.parametrize("segments", ([16, 40], "[16, 40]"))
def test_it_is_compiled_once(segments):
    torch._dynamo.reset()
    args = config(xpos_rel_pos=True)
    args.segment_length = segments
    module = module_of(args)
    step = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")

    def both(length):
        x, mask = x_of(length), torch.zeros(2, length, dtype=torch.bool)
        close(step(x, x, x, key_padding_mask=mask)[0], module(x, x, x)[0], 1e-6)

    both(20)
    with torch.compiler.set_stance("fail_on_recompile"):
        both(33)
        both(57)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_autocast_and_lower_dtypes(dtype):
    module, x = module_of(config()), x_of(50)
    wanted = module(x, x, x)[0]
    with torch.autocast("cpu", dtype):
        out = module(x, x, x)[0]
    assert out.dtype == dtype
    close(out, wanted, 0.05)
    y = x.to(dtype)
    close(module.to(dtype)(y, y, y)[0], wanted, 0.05)


@pytest.mark.parametrize(
    "args, options, words",
    (
        ({"segment_length": None}, {}, r"^args.segment_length must be a list of positive integers .*, got None"),
        ({"segment_length": "[2**4, 40]"}, {}, r"^args.segment_length must be .*, got '\[2\*\*4, 40\]'"),
        ({"segment_length": "__import__('os').getpid()"}, {}, "^args.segment_length must be a list"),
        ({"segment_length": "[]"}, {}, "^args.segment_length must be a list"),
        ({"segment_length": [16, 0]}, {}, r"^args.segment_length must be .*, got \[16, 0\]"),
        ({"segment_length": [16, 40.0]}, {}, "^args.segment_length must be a list"),
        ({"dilated_ratio": "[1, true]"}, {}, "^args.dilated_ratio must be a list"),
        ({"dilated_ratio": [1]}, {}, r"^args.dilated_ratio must have one rate a segment length, 2, got 1: \[1\]"),
        ({"layernorm_eps": -1.0}, {}, "^args.layernorm_eps must be positive and finite, got -1.0"),
        ({"xpos_rel_pos": True}, {"width": 12}, "must be even for args.xpos_rel_pos, got 3"),
        ({"xpos_rel_pos": True, "xpos_scale_base": 0}, {}, "^args.xpos_scale_base must be positive and finite, got 0"),
        ({}, {"width": 30}, "^embed_dim must be a multiple of num_heads 4, got 30"),
        ({}, {"dropout": 1.0}, r"^dropout must be in \[0, 1\), got 1.0"),
        ({}, {"self_attention": False}, "^self_attention must be True, or encoder_decoder_attention in its place"),
        ({}, {"encoder_decoder_attention": True}, "^self_attention must be True, or encoder_decoder_attention"),
    ),
)
def test_constructors_that_are_refused(args, options, words):
    given = config()
    vars(given).update(args)
    with pytest.raises(ValueError, match=words):
        module_of(given, **options)


def test_calls_that_are_refused(monkeypatch):
    args = config()
    module, x = module_of(args), x_of(50)
    stale = {"prev_key": torch.zeros(1, HEADS, 5, 8), "prev_value": torch.zeros(1, HEADS, 5, 8)}
    for arguments, words in (
        ({"attn_mask": torch.zeros(50, 50)}, "^attn_mask must be None, got Tensor; is_causal=True"),
        ({"rel_pos": torch.zeros(50, 50)}, "^rel_pos must be None, got Tensor; set rel_pos_buckets"),
        ({"query": x_of(50, width=16)}, r"^query must be \[batch, len, 32\], got shape \[2, 50, 16\]"),
        ({"query": x_of(49)}, "^key must have the length of query, 49, got 50; attention to another"),
        ({"query": x_of(49), "incremental_state": {}}, "^key must have .*; give the tokens of this step alone"),
        ({"value": x_of(49)}, "^key and value must have one shape and the batch of query"),
        ({"query": x_of(50, batch=1)}, "^key and value must have one shape and the batch of query"),
        ({"incremental_state": stale}, r"^incremental_state\['prev_key'\] must be \[2, 4, len, 8\]"),
    ):
        with pytest.raises(ValueError, match=words):
            module(**{"query": x, "key": x, "value": x, **arguments})
    args.seq_parallel = True
    whole = module(x, x, x)[0]  # without ranks there is nothing to gather
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert torch.equal(module(x, x, x)[0], whole)  # no segment is longer than the part
    args.segment_length = [16, 64]
    words = "^args.seq_parallel must be False where segments .* 50 tokens, got True on 2 ranks"
    with pytest.raises(ValueError, match=words):
        module(x, x, x)
