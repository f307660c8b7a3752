"""LongNetLM: logits and losses against plain torch, decoding against recomputing, sampling, generation, refusals."""

import copy
import math
import os
import pathlib
import pickle
import subprocess

import plain_models
import pytest
import torch
import torch._dynamo
from support import close

from longstride.nn import LongNetLM, generate, sample_token, save_model

SMALL = {
    "vocab": 11, "dim": 16, "layers": 2, "heads": 2, "segment_lengths": [4, 16], "dilation_rates": [1, 2], "max_len": 64,
}  # fmt: skip
OPTIONS = {
    "defaults": SMALL,
    "tied, grouped heads, xpos": {
        **SMALL, "tied_head": True, "kv_heads": 1, "positions": "xpos", "qk_norm": True, "activation": "swish",
        "blocks": [{"pattern": "strided", "block_size": 4, "stride_blocks": 2}],
    },
    "sinks": {**SMALL, "sinks": True, "kv_heads": 1},
    "alibi": {**SMALL, "positions": "alibi", "kv_heads": 1},
    "window, no positions": {
        **SMALL, "segment_lengths": [], "dilation_rates": [], "positions": "none", "dim_feedforward": 24,
        "blocks": [{"pattern": "sliding_window", "left": 5, "right": 0, "sink_tokens": 1}],
    },
}  # fmt: skip


def tokens_of(length=20, batch=2, seed=1):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def made(options, dtype=torch.float64, **more):
    torch.manual_seed(4)
    model = LongNetLM(**options, **more, dtype=dtype).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("sinks"):  # which are 0 at first
                p.normal_()
    return model


@pytest.mark.parametrize("call", ({}, {"cu_seqlens": [0, 7, 20]}), ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_logits_are_the_definition(name, call):
    model = made(OPTIONS[name])
    wanted = plain_models.language_model(model.state_dict(), OPTIONS[name], tokens_of(), **call)
    close(model(tokens_of(), **call), wanted, 1e-8)


def test_losses_are_those_of_the_logits(monkeypatch):
    model, tokens = made(SMALL), tokens_of()
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    wanted = -model(tokens).log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)
    close(model.token_losses(tokens, targets), wanted, 1e-12)
    loss = model.loss(tokens, targets)
    close(loss, wanted.sum() / 38, 1e-12)
    whole = torch.autograd.grad(loss, model.parameters())
    monkeypatch.setattr("longstride.nn._longnet_lm.CHUNK_LOGITS", 7 * 11)  # chunks of 7 positions
    model.activation_checkpointing = True
    parts = torch.autograd.grad(model.loss(tokens, targets), model.parameters())
    for a, b in zip(whole, parts):
        assert a.abs().max() > 0
        close(a, b, 1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_decoding_is_recomputing(name):
    model, tokens = made(OPTIONS[name]), tokens_of()
    state = model.start_decoding(2, 20)
    whole = model(tokens)
    for part in tokens.split((6, 1, 1, 7, 5), 1):
        logits = model.decode(part, state)
        close(logits, whole[:, state.length - 1], 1e-9)
    assert state.length == 20 and not logits.requires_grad
    half = copy.deepcopy(model).float()
    with torch.autocast("cpu", torch.bfloat16):
        state = half.start_decoding(2, 20)
        assert state.layers[0].k.dtype == torch.bfloat16
        logits = [half.decode(part, state) for part in tokens.split(5, 1)]
        close(torch.stack(logits, 1), half(tokens)[:, 4::5], 0.05)


@pytest.mark.parametrize(
    "options",
    (
        {"temperature": 0},
        {"seed": 3},
        {"seed": 3, "temperature": 0.7, "top_k": 4},
        {"seed": 3, "top_p": 0.6, "prefill_tokens": 2},
    ),
)
def test_generation_is_recomputing_every_step(options):
    model, prompt = made(SMALL), tokens_of(5)
    seen = []
    got = generate(model, prompt, max_tokens=12, **options, on_tokens=seen.append)
    sampling = {key: options[key] for key in ("temperature", "top_k", "top_p") if key in options}
    generator, tokens = torch.Generator().manual_seed(options.get("seed", 0)), prompt
    for _ in range(12):
        uniform = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        step = [sample_token(row, u, **sampling) for row, u in zip(model(tokens)[:, -1], uniform)]
        tokens = torch.cat((tokens, torch.tensor(step)[:, None]), 1)
    assert torch.equal(got, tokens[:, 5:]) and torch.equal(got, torch.tensor(seen).T)
    assert len(got.unique()) > 2 or options["temperature"] == 0


@pytest.mark.skipif("LONGSTRIDE_INSTALLED" in os.environ, reason="a wheel has no C++ program")
def test_the_cpp_program_continues_a_text_as_python_does(tmp_path):
    program = pathlib.Path(os.environ["LONGSTRIDE_LIBRARY"]).parents[1] / "bin" / "longstride"
    options = {**OPTIONS["tied, grouped heads, xpos"], "vocab": 256, "dim": 32}
    model = made(options, torch.float32)
    save_model(tmp_path / "made", model)
    prompt = torch.tensor([list(b"hello")])
    for sampling in ({"temperature": 0}, {"temperature": 0.8, "seed": 5, "top_k": 20, "top_p": 0.9}):
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in sampling.items()]
        command = [program, "generate", tmp_path / "made", "--prompt=hello", "--length=30", "--raw", "--quiet", *flags]
        text = subprocess.run(command, capture_output=True, check=True, timeout=600).stdout
        assert list(text) == generate(model, prompt, max_tokens=30, **sampling)[0].tolist()


def test_seeds_repeat_and_rows_end():
    model, prompt = made(SMALL), tokens_of(5)
    one, other = (model.generate(prompt, max_tokens=20, seed=seed) for seed in (1, 2))
    assert torch.equal(one, generate(model, prompt, max_tokens=20, seed=1)) and not torch.equal(one, other)
    torch.manual_seed(9)
    drawn = generate(model, prompt, max_tokens=20)
    assert not torch.equal(drawn, generate(model, prompt, max_tokens=20))
    torch.manual_seed(9)
    assert torch.equal(drawn, generate(model, prompt, max_tokens=20))
    stop = int(one[0, 3])
    ended = generate(model, prompt, max_tokens=20, seed=1, stop_token=stop)
    for row, whole in zip(ended.tolist(), one.tolist()):
        end = whole.index(stop) + 1 if stop in whole else len(whole)
        assert row == (whole[:end] + [stop] * 20)[: ended.size(1)]
    assert generate(model, prompt, max_tokens=20, seed=1, on_tokens=lambda _: False).shape == (2, 1)


@pytest.mark.parametrize(
    "options, allowed",
    (
        ({}, [0, 1, 2, 3, 4]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 3}, [0, 1, 3]),  # among the equal tokens 0 and 4 the smaller
        ({"top_p": 0.6}, [1, 3]),
        ({"top_p": 0.3}, [1]),
        ({"top_k": 3, "top_p": 0.99}, [0, 1, 3]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
    ),
)
def test_sampling_draws_by_the_probabilities(options, allowed):
    logits = torch.tensor([1.0, 3.0, -math.inf, 2.5, 1.0])
    weights = [math.exp(float(x) / options.get("temperature", 1.0)) if i in allowed else 0.0 for i, x in enumerate(logits)]
    got = [sample_token(logits, (i + 0.5) / 1000, **options) for i in range(1000)]
    assert got == sorted(got)
    for token, weight in enumerate(weights):
        assert abs(got.count(token) / 1000 - weight / sum(weights)) <= 0.001
    assert sample_token(logits, 0.999, temperature=0) == 1
    assert sample_token(torch.tensor([2.0, 5.0, 5.0]), 0.9, temperature=0) == 1


def test_a_prefix_is_what_it_is_whatever_follows():
    model, tokens = made(OPTIONS["tied, grouped heads, xpos"]), tokens_of()
    other = tokens.clone()
    other[:, 11:] = (other[:, 11:] + 3) % 11
    a, b = model(tokens), model(other)
    assert torch.equal(a[:, :11], b[:, :11]) and not torch.equal(a[:, 11:], b[:, 11:])


def test_it_is_compiled_copied_and_pickled():
    model, tokens = made(SMALL, torch.float32), tokens_of()
    torch._dynamo.reset()
    step = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    close(step(tokens), model(tokens), 1e-5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(tokens), model(tokens))
        other.reset_parameters()
        assert not torch.equal(other(tokens), model(tokens))


@pytest.mark.parametrize(
    "options, words",
    (
        ({"vocab": 0}, "^vocab must be positive, got 0"),
        ({"layers": 1.5}, "^layers must be an integer, got 1.5"),
        ({"dim": 15}, "^dim must be a multiple of heads 2, got 15"),
        ({"dim_feedforward": -1}, r"^dim_feedforward must be positive, or 0 for 4 \* dim"),
        ({"gamma_init": math.nan}, "^gamma_init must be positive, or 0 for the default"),
        ({"causal": False}, "^causal must be True in a language model"),
        ({"learned": {}}, "^learned must be None in a language model"),
        ({"blocks": [{"pattern": "local_window", "block_size": 4, "density": 0.5}]}, "^blocks must be.*give window"),
        ({"blocks": [{"pattern": "axial", "block_size": 4}]}, "^blocks must be.*give grid_columns"),
        ({"blocks": [{"pattern": "list", "block_size": 4, "blocks": [[0, 0, 0, 0]]}]}, "^blocks must be.*a rule in pla"),
    ),
)
def test_options_that_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LongNetLM(**{**SMALL, **options})


def test_inputs_that_are_refused():
    model, tokens = made(SMALL), tokens_of()
    state = model.start_decoding(2, 20)
    training = copy.deepcopy(model).train()
    for call, words in (
        (lambda: model(tokens[0]), r"^tokens must be int64 \[batch, len\], got Long shape \[20\]"),
        (lambda: model(tokens.int()), "^tokens must be int64.*got Int"),
        (lambda: model(tokens + 5), r"^tokens must be in \[0, 11\), got 1[1-5]"),
        (lambda: model(tokens.repeat(1, 4)), "^tokens must not be longer than max_len 64, got 80; raise max_len"),
        (lambda: model.loss(tokens, tokens[:, :3]), "^targets must have the shape of tokens"),
        (lambda: model.loss(tokens, tokens - 20), r"^targets must be in \[0, 11\)"),
        (lambda: model.loss(tokens, tokens * 0 - 100), "^targets must hold one that counts, got none"),
        (lambda: model.start_decoding(0, 5), "^batch must be positive"),
        (lambda: model.start_decoding(2, 65), r"^capacity must be in \[1, max_len 64\], got 65; ask for fewer"),
        (lambda: training.decode(tokens, state), r"^model must be in eval mode to decode.*call eval\(\)"),
        (lambda: model.decode(tokens[:, :0], state), "^tokens must hold at least one token a row"),
        (lambda: model.decode(tokens.repeat(1, 2), state), "^tokens must fit behind 0 of 20 tokens, got 40"),
        (lambda: made({**SMALL, "layers": 1}).decode(tokens, state), "^state must be made by.*2 layers for a model of 1"),
        (lambda: generate(training, tokens), "^model must be in eval mode"),
        (lambda: generate(model, tokens[:, :0]), r"^prompt must be int64 \[batch >= 1, len >= 1\]"),
        (lambda: generate(model, tokens), r"^len \+ max_tokens must not exceed max_len 64, got 20 \+ 256"),
        (lambda: generate(model, tokens, max_tokens=0), "^max_tokens must be positive"),
        (lambda: generate(model, tokens, prefill_tokens=0), "^prefill_tokens must be positive"),
        (lambda: generate(model, tokens, temperature=-1.0), "^temperature must be finite and not negative"),
        (lambda: generate(model, tokens, top_k=-1), "^top_k must be positive, or 0 for all"),
        (lambda: generate(model, tokens, top_p=0.0), r"^top_p must be in \(0, 1\]"),
        (lambda: generate(model, tokens, max_tokens=2, stop_token=11), r"^stop_token must be in \[0, 11\)"),
        (lambda: sample_token(torch.zeros(2, 2), 0.5), r"^logits must be \[vocab\]"),
        (lambda: sample_token(torch.tensor([math.nan]), 0.5), "^logits must not be NaN"),
        (lambda: sample_token(torch.tensor([math.inf]), 0.5), "^logits must have a finite maximum"),
        (lambda: sample_token(torch.zeros(2), 1.0), r"^uniform must be in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert state.length == 0
