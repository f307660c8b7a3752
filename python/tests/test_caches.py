"""Caches that drop what no later query sees: the numbers of recomputing, in few rows."""

import copy
import pickle

import pytest
import torch

from longstride import Pattern
from longstride.nn import KeyValueCache, LongNetLM
from longstride.nn._retention import Retention

WINDOW = Pattern.sliding_window(64, sink_tokens=4, causal=True)
SEGMENTS = Pattern.dilated([16, 64], [1, 4], causal=True)
SIZES = {"vocab": 31, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "max_len": 1 << 14, "dtype": torch.float64}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def model_of(pattern, **options):
    torch.manual_seed(1)
    return LongNetLM(pattern=pattern, **SIZES, **options).eval()


def tokens_of(*shape):
    return torch.randint(SIZES["vocab"], shape, generator=torch.Generator().manual_seed(2))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def held(state):
    return max(cache.k.size(1) for cache in state.layers)


@pytest.mark.parametrize(
    "pattern, dropped",
    (
        (Pattern.sliding_window(6, causal=True), 53),
        (Pattern.sliding_window(6, 0, sink_tokens=5) | Pattern.sliding_window(11, 2), 43),
        (Pattern.block_sparse("local_window", 4, window=9, causal=True), 52),
        (Pattern.block_sparse("global_local", 4, window=8, global_tokens=3, causal=True), 48),
        (Pattern.block_sparse("dilated_sparse", 4, rates=[1, 3], reach=2), 32),
        (Pattern.dilated([7, 14, 4], [2, 2, 1], causal=True), 56),
        (Pattern.dilated([6], [2]) | Pattern.sliding_window(11, 2, sink_tokens=2), 42),
        (Pattern.dilated([8], [1], causal=True, padding="zero_keys"), 56),
        (Pattern.sliding_window(right=3), None),
        (Pattern.block_sparse("local_window", 4, density=0.5), None),
        (Pattern.block_sparse("dilated_sparse", 4, density=0.5), None),
        (Pattern.block_sparse("strided", 4, stride_blocks=3) | Pattern.sliding_window(3), None),
        (Pattern.dilated([8], [1], padding="zero_keys"), None),
    ),
)
def test_what_is_left_shows_the_same(pattern, dropped):
    length = 60
    retention = Retention.of(pattern)
    if dropped is None:
        assert retention is None
        return
    assert retention.outlived(length - 1) == dropped
    whole = pattern.mask(length, heads=3)
    for query in range(length):
        gone, sinks = retention.outlived(query), retention.sinks
        assert query + 1 - gone <= retention.most_kept
        left = pattern.mask(length - gone, heads=3)
        kept = torch.ones(length, dtype=torch.bool)
        kept[sinks : sinks + gone] = False
        assert not whole[:, query:, ~kept].any()
        assert torch.equal(whole[:, query:, kept], left[:, query - gone :])


def test_five_thousand_tokens_in_few_rows():
    model, length = model_of(WINDOW, sinks=True), 5000
    for layer in model.layers:
        layer.attention.sinks.normal_()
    tokens = tokens_of(2, length)
    whole, state, rows = model(tokens), model.start_decoding(2, length), 0
    for i in range(length):
        logits = model.decode(tokens[:, i : i + 1], state)
        rows = max(rows, held(state))
        close(logits, whole[:, i])
    assert rows < 300
    assert all(cache.length == length and cache.dropped > length - 300 for cache in state.layers)


@pytest.mark.parametrize(
    "pattern, options, most",
    (
        (WINDOW, {"positions": "xpos"}, 200),
        (WINDOW, {"positions": "none"}, 200),
        (WINDOW, {"positions": "alibi"}, 1200),  # the distance of the sinks counts
        (Pattern.sliding_window(64, causal=True), {"positions": "alibi"}, 200),
        (WINDOW | Pattern.sliding_window(20, causal=True), {}, 200),
        (Pattern.block_sparse("global_local", 8, window=16, global_tokens=9, causal=True), {}, 200),
        (SEGMENTS, {}, 250),
        (SEGMENTS | WINDOW, {}, 250),
        (SEGMENTS | Pattern.block_sparse("strided", 8, stride_blocks=3, causal=True), {}, 1200),
    ),
)
def test_chunks_of_many_sizes_equal_recomputing(pattern, options, most):
    model, length = model_of(pattern, **options), 1200
    tokens = tokens_of(2, length)
    whole, state, at = model(tokens), model.start_decoding(2, length), 0
    sizes = (1, 7, 300, 1, 64, 1, 1, 2, 33)
    for n in (sizes * 3)[:25]:
        logits = model.decode(tokens[:, at : at + n], state)
        at = min(length, at + n)
        close(logits, whole[:, at - 1])
        assert n > 1 or held(state) <= most
    while at < length:
        close(model.decode(tokens[:, at : at + 9], state), whole[:, min(length, at + 9) - 1])
        at = min(length, at + 9)
    assert held(state) <= most


def test_generating_equals_recomputing():
    model, prompt = model_of(WINDOW), tokens_of(2, 300)
    tokens = prompt
    for _ in range(40):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(2)], 1)
    assert torch.equal(model.generate(prompt, max_tokens=40, temperature=0, prefill_tokens=70), tokens[:, 300:])


def test_steps_are_taken_back_and_copies_are_empty():
    model, tokens = model_of(WINDOW), tokens_of(1, 400)
    state = model.start_decoding(1, 400)
    for i in range(300):
        model.decode(tokens[:, i : i + 1], state)
    state.length = 299
    close(model.decode(tokens[:, 5:6], state), model(torch.cat([tokens[:, :299], tokens[:, 5:6]], 1))[:, -1])
    state.length = 100
    with pytest.raises(ValueError, match="^cache must hold what positions from its length 100 on see, got one in 133 rows"):
        model.decode(tokens[:, :1], state)
    for empty in (copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert empty.length == 0 and all(cache.length == cache.dropped == 0 for cache in empty.layers)
        assert all(cache.capacity == 400 and cache.k.size(1) == 133 for cache in empty.layers)
        close(model.decode(tokens[:, :390], empty), model(tokens[:, :390])[:, -1])
        close(model.decode(tokens[:, 390:], empty), model(tokens)[:, -1])
        assert held(empty) == 133


def test_a_cache_of_tensors_alone_holds_as_many_positions():
    assert KeyValueCache(torch.empty(1, 9, 2, 4), torch.empty(1, 9, 2, 4)).capacity == 9
