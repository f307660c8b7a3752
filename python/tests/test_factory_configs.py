"""Configs as values: the JSON of the C++ ones, process groups, and what each of them refuses."""

import dataclasses
import inspect
import json
import pathlib

import pytest
import torch

import longstride as ls
from longstride import factory
from longstride.factory import (
    DilatedAttentionConfig,
    DistributedConfig,
    LongNetConfig,
    MemoryPoolConfig,
    MultiheadConfig,
    RingAttentionConfig,
    SparseAttentionConfig,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As the C++ configs of version 0.1.0 wrote them.
SAVED = ROOT / "test" / "factory" / "saved"
HYBRID = [
    {"pattern": "local_window", "block_size": 8, "window": 16},
    {"pattern": "random", "block_size": 4, "density": 0.25, "seed": 3},
    {"pattern": "sliding_window", "left": 7, "sink_tokens": 2},
]


@pytest.mark.parametrize(
    "name, config",
    (
        ("ring", RingAttentionConfig("none", 1)),
        ("distributed", DistributedConfig("g", 2, 4, 3, "gloo")),
        ("memory_pool", MemoryPoolConfig(1 << 20, 1 << 21)),
        ("sparse", SparseAttentionConfig("global_local", 8, window=16, global_tokens=3)),
    ),
)
def test_configs_that_cpp_wrote_are_read_and_written_alike(name, config):
    text = (SAVED / f"{name}.json").read_text(encoding="utf-8")
    assert type(config).from_json(text) == config
    # The saved sparse one is older than three of its options.
    later = {"left", "right", "sink_tokens"} if name == "sparse" else ()
    written = json.dumps({key: value for key, value in config.to_dict().items() if key not in later}, indent=2)
    assert written == text
    assert later or config.to_json() == text


@pytest.mark.parametrize(
    "folder, config",
    (("attention", DilatedAttentionConfig), ("multihead", MultiheadConfig), ("longnet", LongNetConfig)),
)
def test_module_configs_that_cpp_wrote_are_read(folder, config):
    described = json.loads((ROOT / "test" / "nn" / "saved" / folder / "config.json").read_text(encoding="utf-8"))
    said = described["config"]
    read = config.from_json(json.dumps(said))
    assert {key: read.to_dict()[key] for key in said} == said
    made = getattr(ls.nn, described["model"])(**said)
    assert made.config == read.to_dict()
    assert config.from_json(json.dumps(made.config)) == read


@pytest.mark.parametrize(
    "config, made",
    (
        (DilatedAttentionConfig, ls.nn.DilatedAttention),
        (MultiheadConfig, ls.nn.MultiheadDilatedAttention),
        (LongNetConfig, ls.nn.LongNet),
    ),
)
def test_defaults_are_those_of_the_modules(config, made):
    own = inspect.signature(made.__init__).parameters
    for field in dataclasses.fields(config):
        given = own.get(field.name)
        if given is not None and given.default is not inspect.Parameter.empty:
            assert field.default == given.default, field.name


def test_the_order_of_fields_is_that_of_cpp():
    module = factory.builtin_registry()["block_sparse"]
    listed = [option.name for option in module.multihead_options if option.name not in ("device", "dtype")]
    sparse = [field.name for field in dataclasses.fields(SparseAttentionConfig)]
    multihead = [field.name for field in dataclasses.fields(MultiheadConfig) if field.name not in ("blocks", "learned")]
    assert listed == multihead + sparse


ALL = (
    RingAttentionConfig("none", 2),
    DistributedConfig("g", 2, 4, 3, "gloo"),
    MemoryPoolConfig(1 << 20, 5),
    SparseAttentionConfig("hierarchical", 16, levels=[{"stride": 16, "window": 64}, {"stride": 32, "global": True}]),
    SparseAttentionConfig("hybrid", blocks=HYBRID),
    SparseAttentionConfig("sliding_window", left=7, sink_tokens=2),
    SparseAttentionConfig(
        "learned", density=0.25, min_sparsity_ratio=0.5, max_sparsity_ratio=0.875, hidden=16, temperature=0.5
    ),
    DilatedAttentionConfig([8], [2], blocks=HYBRID, learned={"block_size": 8, "head_dim": 4, "kv_heads": 2}),
    DilatedAttentionConfig(learned={"density": 0.5}),
    MultiheadConfig(32, 4, 2, [8], [2], True, blocks=HYBRID, positions="xpos"),
    LongNetConfig("decoder", 1, 2, 32, 4, segment_lengths=[8], dilation_rates=[2]),
)


@pytest.mark.parametrize("config", ALL)
def test_json_round_trips_and_configs_do_not_change(config):
    assert type(config).from_json(config.to_json()) == config
    assert type(config)(**config.to_dict()) == config
    assert list(json.loads(config.to_json())) == [field.name for field in dataclasses.fields(config)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)


def test_rules_are_written_in_the_order_of_cpp():
    rules = [{"seed": 1, "density": 0.5, "block_size": 4, "pattern": "random"}]
    text = SparseAttentionConfig("hybrid", blocks=rules).to_json()
    assert '"pattern": "random",\n      "block_size": 4,\n      "density": 0.5,\n      "seed": 1\n' in text


def test_values_of_any_make_are_read():
    config = DilatedAttentionConfig(torch.tensor([8, 16]), (1, 2), softmax_scale=1)
    assert config.segment_lengths == (8, 16) and json.loads(config.to_json())["softmax_scale"] == 1.0
    assert '"softmax_scale": 1.0' in config.to_json()


REFUSED = (
    (RingAttentionConfig, {"ring_sise": 1}, r"unknown config key 'ring_sise'; one of \[group, ring_size\]; did you mean 'ring_size'"),
    (DistributedConfig, {"worldsize": 1}, "'world_size'"),
    (SparseAttentionConfig, {"blocksize": 1}, "'block_size'"),
    (MemoryPoolConfig, {"most_cashed_bytes": 1}, "did you mean 'most_cached_bytes'"),
    (RingAttentionConfig, {"ring_size": "1"}, 'ring_size must be an integer, got "1"'),
    (RingAttentionConfig, {"ring_size": True}, "ring_size must be an integer, got true"),
    (RingAttentionConfig, {"group": 3}, "group must be a string, got 3"),
    (RingAttentionConfig, {"ring_size": 2**63}, r"must be an integer below 2\^63"),
    (RingAttentionConfig, {"ring_size": 0}, "ring_size must be positive, got 0"),
    (RingAttentionConfig, {"ring_size": -2}, "ring_size must be positive, got -2"),
    (DistributedConfig, {"world_size": 0}, "world_size must be positive, got 0"),
    (DistributedConfig, {"rank": -1}, "rank must not be negative, got -1"),
    (DistributedConfig, {"rank": 4, "world_size": 4}, "rank must be below world_size 4, got 4"),
    (DistributedConfig, {"ring_size": 8, "world_size": 4}, "must divide world_size 4, got 8"),
    (DistributedConfig, {"ring_size": 3, "world_size": 4}, "must divide world_size 4, got 3"),
    (DistributedConfig, {"backend": "glo"}, r"unknown backend 'glo'; one of \[gloo, nccl, mpi\]; did you mean 'gloo'"),
    (MemoryPoolConfig, {"most_live_bytes": -1}, "most_live_bytes must be positive, got -1"),
    (SparseAttentionConfig, {"block_size": 0}, "block_size must be positive, got 0"),
    (SparseAttentionConfig, {"sparsity_ratio": 1}, r"sparsity_ratio must be in \(0, 1\), got 1"),
    (SparseAttentionConfig, {"sparsity_ratio": 0.0}, r"sparsity_ratio must be in \(0, 1\), got 0"),
    (SparseAttentionConfig, {"density": -0.5}, r"density must be in \(0, 1\), got -0.5"),
    (SparseAttentionConfig, {"density": "x"}, 'density must be a number, got "x"'),
    (SparseAttentionConfig, {"pattern": "local"}, r"unknown pattern 'local'; one of \[local_window, dilated_sparse"),
    (SparseAttentionConfig, {"pattern": "axal"}, "did you mean 'axial'"),
    (SparseAttentionConfig, {"pattern": "axial", "sparsity_ratio": 0.5},
     r"unknown option of pattern axial 'sparsity_ratio'; one of \[grid_columns\]"),
    (SparseAttentionConfig, {"pattern": "strided", "window": 5}, r"one of \[stride_blocks\]"),
    (SparseAttentionConfig, {"pattern": "hybrid"}, "blocks must hold the block patterns"),
    (SparseAttentionConfig, {"pattern": "hybrid", "blocks": {"a": 1}}, "blocks must be a list of block patterns"),
    (SparseAttentionConfig, {"pattern": "hierarchical", "levels": 3}, "levels must be a list of {stride, window}"),
    (SparseAttentionConfig, {"sparsity_ratio": 0.5, "density": 0.5}, "together"),
    (SparseAttentionConfig, {"pattern": "sliding_window", "left": -1}, "left must not be negative, got -1"),
    (SparseAttentionConfig, {"pattern": "sliding_window", "block_size": 128}, "block_size must be 1 under sliding_window"),
    (SparseAttentionConfig, {"pattern": "learned", "min_sparsity_ratio": 0}, r"min_sparsity_ratio must be in \(0, 1\), got 0"),
    (SparseAttentionConfig, {"pattern": "learned", "min_sparsity_ratio": 0.9, "max_sparsity_ratio": 0.9}, "must be below"),
    (SparseAttentionConfig, {"pattern": "learned", "max_sparsity_ratio": 0.8},
     "sparsity_ratio must be from min_sparsity_ratio 0.9 to max_sparsity_ratio 0.8, got 0.9"),
    (SparseAttentionConfig, {"pattern": "learned", "sparsity_ratio": 0.5, "density": 0.5}, "together"),
    (SparseAttentionConfig, {"pattern": "learned", "hidden": 0}, "hidden must be positive, got 0"),
    (SparseAttentionConfig, {"pattern": "learned", "temperature": -1}, "temperature must be finite and not negative, got -1"),
    (DilatedAttentionConfig, {}, "cannot be empty"),
    (DilatedAttentionConfig, {"segment_lengths": [8], "dilation_rates": [1], "learned": {"densty": 1}},
     "unknown key of learned 'densty'"),
    (DilatedAttentionConfig, {"segment_lengths": [8], "dilation_rates": [1], "learned": {"density": 2}}, "density must be in"),
    (DilatedAttentionConfig, {"segment_lengths": [8], "dilation_rates": [1], "learned": 3}, "learned must be an object"),
    (DilatedAttentionConfig, {"segment_lengths": [8], "dilation_rates": [1], "softmax_scale": "2"}, "softmax_scale must be a number"),
    (MultiheadConfig, {"segment_lengths": [8], "dilation_rates": [1]}, "embed_dim must be positive, got 0"),
    (LongNetConfig, {"num_decoder_layers": 0}, "num_decoder_layers must be positive, got 0"),
    (LongNetConfig, {"form": "encodr"}, "did you mean 'encoder'"),
)  # fmt: skip


@pytest.mark.parametrize("config, data, words", REFUSED)
def test_bad_configs_are_refused(config, data, words):
    with pytest.raises(ValueError, match=words):
        config.from_json(json.dumps(data))
    if data.keys() <= {field.name for field in dataclasses.fields(config)}:
        with pytest.raises(ValueError, match=words):
            config(**data)


@pytest.mark.parametrize("text, words", (("{", "config must be JSON"), ("[1]", "config must be a JSON object, got list")))
def test_texts_that_are_no_config(text, words):
    with pytest.raises(ValueError, match=words):
        RingAttentionConfig.from_json(text)


def test_numbers_that_json_has_no_word_for():
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\), got nan"):
        SparseAttentionConfig(density=float("nan"))


def test_sparse_defaults_are_what_the_page_says():
    def of(pattern, **options):
        (block,) = SparseAttentionConfig(pattern, 8, **options).block_patterns()
        assert block.pop("pattern") == pattern and block.pop("block_size") == 8
        return block

    tenth = 1 - 0.9
    assert of("local_window") == {"density": tenth} and of("local_window", window=9) == {"window": 9}
    assert of("dilated_sparse") == {"rates": [1], "density": tenth}
    assert of("dilated_sparse", reach=2, rates=[2]) == {"rates": [2], "reach": 2}
    assert of("dilated_sparse", sparsity_ratio=0.75) == {"rates": [1], "density": 0.25}
    assert of("global_local") == {"window": 512, "global_tokens": 64}
    assert of("global_local", window=16) == {"window": 16, "global_tokens": 64}
    assert of("strided") == {"stride_blocks": 4} and of("axial") == {}
    assert of("random") == {"density": tenth, "seed": 0}
    levels = [{"stride": 8, "window": 32}, {"stride": 32, "window": 128}, {"stride": 128, "global": True}]
    assert of("hierarchical") == {"levels": levels}
    window = {"pattern": "sliding_window", "left": 512, "right": 512, "sink_tokens": 0}
    assert SparseAttentionConfig("sliding_window").block_patterns() == [window]
    window = {"pattern": "sliding_window", "left": 1023, "sink_tokens": 4}
    assert SparseAttentionConfig("sliding_window", left=1023, sink_tokens=4).block_patterns() == [window]
    assert SparseAttentionConfig("strided").block_patterns()[0]["block_size"] == 128


def test_learned_blocks_are_what_the_ratios_say():
    assert SparseAttentionConfig().learned_blocks() is None
    rest = {"head_dim": 0, "kv_heads": 0}
    expected = {"block_size": 128, "density": 1 - 0.9, "min_density": None, "max_density": None, "hidden": 32}
    config = SparseAttentionConfig("learned")
    assert config.block_patterns() == [] and config.learned_blocks() == {**expected, "temperature": 1.0, **rest}
    config = SparseAttentionConfig(
        "learned", 8, density=0.25, min_sparsity_ratio=0.5, max_sparsity_ratio=0.875, hidden=16, temperature=0
    )
    expected = {"block_size": 8, "density": 0.25, "min_density": 0.125, "max_density": 0.5, "hidden": 16}
    assert config.learned_blocks() == {**expected, "temperature": 0.0, **rest}


def test_one_process_unless_a_group_says_otherwise():
    assert factory.ranks_of(RingAttentionConfig()) == factory.ranks_of(RingAttentionConfig("none", 1)) == 1
    assert factory.ranks_of(DistributedConfig(world_size=1, rank=0)) == 1


@pytest.fixture
def group():
    """A process group of six ranks, of which this process is the second. It has nobody to talk to."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=1, world_size=6, store=FakeStore())
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_ranks_of_a_group_are_counted_and_share_the_sequence(group):
    name = group.group_name
    for said in (None, name, group):
        assert factory.ranks_of(RingAttentionConfig(said)) == 6
    assert factory.ranks_of(RingAttentionConfig("none")) == 1
    assert factory.ranks_of(RingAttentionConfig(name, 3)) == factory.ranks_of(DistributedConfig(name, 2, 6, 1)) == 6
    for config, words in (
        (RingAttentionConfig(name, 4), "ring_size must divide the 6 ranks of the group, got 4; leave it unset for one ring"),
        (RingAttentionConfig(name, 12), "the 6 ranks of the group, got 12"),
        (DistributedConfig(name, world_size=4), "world_size must be that of the group, 6, got 4"),
        (DistributedConfig(name, rank=0), "rank must be that of the group, 1, got 0"),
        (DistributedConfig(name, backend="gloo"), "backend must be that of the group, 'fake', got 'gloo'"),
    ):
        with pytest.raises(ValueError, match=words):
            factory.ranks_of(config)
    for kind in ("ring", "distributed", "block_sparse_ring", "block_sparse_ring_distributed", "auto"):
        assert factory.create_dilated_attention(kind, group=name).context_parallel.ranks.size == 6
        assert factory.create_dilated_attention(kind, group="none").context_parallel is None
    choice = factory.choose_attention(group=name)
    assert choice.type == "ring" and "6 ranks share the sequence" in choice.reason
    assert factory.choose_attention().type == "ring"
    assert factory.create_dilated_attention("standard").choice.type == "standard"
