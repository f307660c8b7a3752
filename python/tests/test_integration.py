"""What programs do with models in torch: export, whole compiled models, meta, autocast, copies of every class."""

import copy
import io
import pickle

import pytest
import torch
import torch._dynamo
import torch._inductor
from support import close
from test_tracing import compiled

import longstride as ls
from longstride.nn import (
    DilatedAttention,
    DilatedTransformerDecoderLayer,
    FeedForward,
    KeyValueCache,
    LongNet,
    LongNetLM,
    MultiheadDilatedAttention,
    TransformerLayer,
)

GROUPS = {"segment_lengths": [4, 16], "dilation_rates": [1, 2]}
BLOCKS = {"blocks": [{"pattern": "local_window", "block_size": 4, "window": 8}]}
LAYER = {"embed_dim": 16, "num_heads": 2, "dim_feedforward": 24, "kv_heads": 1, "qk_norm": True, "sinks": True, **GROUPS, **BLOCKS}
MODELS = {
    "LongNet": lambda: LongNet(
        d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=24, positions="xpos", max_len=256,
        **GROUPS, **BLOCKS, sinks=True,
    ),
    "LongNetLM": lambda: LongNetLM(11, 16, 2, 2, kv_heads=1, max_len=256, **GROUPS, **BLOCKS, sinks=True),
}  # fmt: skip
MODULES = {
    "DilatedAttention": (lambda: DilatedAttention(**GROUPS, **BLOCKS), lambda m: m(*[heads()] * 3)[0]),
    "MultiheadDilatedAttention": (
        lambda: MultiheadDilatedAttention(16, 2, **GROUPS, **BLOCKS, positions="rope", sinks=True, qk_norm=True),
        lambda m: m(x_of())[0],
    ),
    "FeedForward": (lambda: FeedForward(16, 24), lambda m: m(x_of())),
    "TransformerLayer": (lambda: TransformerLayer(**LAYER), lambda m: m(x_of())),
    "DilatedTransformerDecoderLayer": (lambda: DilatedTransformerDecoderLayer(**LAYER), lambda m: m(x_of(), x_of())),
    "LongNet": (MODELS["LongNet"], lambda m: m(x_of())),
    "LongNetLM": (MODELS["LongNetLM"], lambda m: m(ids_of())),
}


def x_of(length=20, batch=2):
    return torch.randn(batch, length, 16, generator=torch.Generator().manual_seed(length))


def heads():
    return x_of().unflatten(2, (2, 8))


def ids_of(length=20, batch=2):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(length))


def made(make):
    torch.manual_seed(3)
    module = make().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_runs_at_any_length_and_batch(name):
    model, inputs = made(MODELS[name]), {"LongNet": x_of, "LongNetLM": ids_of}[name]
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=2, max=256)}
    program = torch.export.export(model, (inputs(),), dynamic_shapes=(sizes,), strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for length, batch in ((20, 2), (61, 1), (7, 3)):
        x = inputs(length, batch)
        close(loaded(x), model(x), 1e-5)


def test_an_exported_model_is_compiled_ahead_of_time(tmp_path):
    model = made(lambda: LongNetLM(11, 16, 1, 2, **GROUPS, sinks=True))
    sizes = {1: torch.export.Dim("length", min=2, max=256)}
    program = torch.export.export(model, (ids_of(),), dynamic_shapes=(sizes,), strict=False)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    for length in (20, 61):
        close(loaded(ids_of(length)), model(ids_of(length)), 1e-5)


def test_a_whole_language_model_is_one_graph():
    model = made(MODELS["LongNetLM"]).train()

    def loss(ids, lengths):
        logits = model(ids, lengths=lengths)
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    step, graphs = compiled(loss)
    for length in (20, 33, 61):
        call = ids_of(length), torch.tensor([length, length // 2])
        got, wanted = (torch.autograd.grad(f(*call), tuple(model.parameters())) for f in (step, loss))
        for a, b in zip(got, wanted):
            close(a, b, 1e-5)
    assert len([one for one in graphs if len(one.graph.nodes)]) == 1  # Dynamo hands over an empty one too


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_copied_pickled_and_made_on_meta(name):
    make, run = MODULES[name]
    module = made(make)
    wanted, weights = run(module), module.state_dict()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(run(other), wanted) and other.config == module.config
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
    assert torch.equal(run(module), wanted)
    with torch.device("meta"):
        empty, assigned = make().eval(), make().eval()
    assert all(p.is_meta for p in (*empty.parameters(), *empty.buffers()))
    empty.to_empty(device="cpu").load_state_dict(weights)
    assigned.load_state_dict(weights, assign=True)
    for other in (empty, assigned):
        assert torch.equal(run(other), wanted)
    drawn = {key: p.clone() for key, p in empty.state_dict().items()}
    if weights:
        empty.reset_parameters()  # all that to_empty() leaves open, if no weights are loaded
        assert any(not torch.equal(p, drawn[key]) for key, p in empty.state_dict().items())


def test_patterns_are_checked_within_a_meta_device_too():
    with torch.device("meta"):
        for pattern in ('{"dilated": {"segment_lengths": [31], "dilation_rates": [0]}}', '{"blocks": [{"pattern": "lokal"}]}'):
            with pytest.raises(ValueError):
                ls.Pattern.from_json(pattern)
        mask = ls.Pattern.sliding_window(1, 0).mask(3)
    assert mask[0].tolist() == [[True, False, False], [True, True, False], [False, True, True]]
    x = heads()
    got = []
    for device in ("meta", "cpu"):  # lists of lengths become tensors
        with torch.device(device):
            got.append(ls.attention(x, x, x, ls.Pattern.sliding_window(2), lengths=[20, 3]))
    assert torch.equal(*got)


def test_copies_of_caches_are_empty():
    model, ids = made(MODELS["LongNetLM"]), ids_of()
    state = model.start_decoding(2, 20)
    model.decode(ids[:, :12], state)
    held = state.layers[0].k[:, :12].clone()
    for copied in (copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):
        cache = copied(state.layers[0])
        assert isinstance(cache, KeyValueCache) and cache.length == 0 and cache.capacity == 20
        assert cache.k.shape == state.layers[0].k.shape and cache.k.dtype == state.layers[0].k.dtype
        other = copied(state)
        assert other.length == 0 and other.capacity == 20 and len(other.layers) == 2
        # It decodes from the beginning, and leaves the one that it was copied from alone.
        close(model.decode(ids[:, :5] * 0, other), model(ids[:, :5] * 0)[:, 4], 1e-5)
    assert state.length == 12 and torch.equal(state.layers[0].k[:, :12], held)
    close(model.decode(ids[:, 12:], state), model(ids)[:, -1], 1e-5)
    assert len(pickle.dumps(model.start_decoding(2, 250))) < 5000


def test_a_step_under_autocast_is_near_and_keeps_float32_weights():
    model, ids = made(MODELS["LongNetLM"]).train(), ids_of()
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(ids)
            assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
            loss = model.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        assert b.dtype == torch.float32 and 0 < (a - b).norm() < 0.1 * a.norm()


def test_torchs_deterministic_algorithms_ask_for_the_same_bits():
    from longstride._attention import call_of

    pattern, asked = ls.Pattern.dilated(**GROUPS), torch.are_deterministic_algorithms_enabled()
    assert call_of(pattern)[2] == {}
    call, graphs = compiled(lambda q: ls.attention(q, q, q, pattern))
    q = heads()
    before = call(q)
    torch.use_deterministic_algorithms(True)
    try:
        assert call_of(pattern)[2] == {"deterministic": True}
        assert torch.equal(call(q), before)
        assert ["deterministic" in graph.print_readable(print_output=False) for graph in graphs] == [False, True]
    finally:
        torch.use_deterministic_algorithms(asked)
