"""A model's folder: what C++ saved loads and gives its numbers, what Python saves is the same; damage is refused."""

import json
import pathlib
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import close

from longstride.nn import (
    DilatedAttention,
    DilatedTransformerDecoderLayer,
    FeedForward,
    LongNet,
    LongNetLM,
    MultiheadDilatedAttention,
    TransformerLayer,
    load_model,
    load_weights,
    save_model,
    saved_model_name,
)

SAVED = pathlib.Path(__file__).resolve().parents[2] / "test" / "nn" / "saved"
FOLDERS = {
    "attention": (DilatedAttention, lambda model, x: model(x, x, x)[0]),
    "multihead": (MultiheadDilatedAttention, lambda model, x: model(x)[0]),
    "feed_forward": (FeedForward, lambda model, x: model(x)),
    "layer": (TransformerLayer, lambda model, x: model(x)),
    "decoder_layer": (DilatedTransformerDecoderLayer, lambda model, x: model(x, x)),
    "longnet": (LongNet, lambda model, x: model(x)),
    "longnet_lm": (LongNetLM, lambda model, x: model(x)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_cpp_saved_loads_and_what_python_saves_is_the_same(name, tmp_path):
    kind, run = FOLDERS[name]
    assert saved_model_name(SAVED / name) == kind.__name__
    model = load_model(SAVED / name, kind)
    assert type(model) is kind and model.training
    then = load_file(SAVED / name / "run.safetensors")
    close(run(model.eval(), then["in"]), then["out"], 1e-5)
    save_model(tmp_path / "made", model)
    config, saved = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "made", SAVED / name))
    assert {**config, "config": 0} == {**saved, "config": 0}
    # Version 0.1.0 left out options of some models; what it wrote is there.
    assert saved["config"].items() <= config["config"].items()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "made", SAVED / name))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    again = load_model(tmp_path / "made")
    assert again.config == model.config
    assert torch.equal(run(again.eval(), then["in"]), run(model, then["in"]))


def test_options_that_do_not_show_in_eval_mode():
    layer = load_model(SAVED / "layer", TransformerLayer)
    assert layer.dropout.p == layer.feed_forward.dropout.p == 0.3
    assert layer.attention.attention.attention_dropout == 0.25
    longnet = load_model(SAVED / "longnet", LongNet)
    assert longnet.encoder_gamma == longnet.encoder_layers[0].attention.gamma_init == 0.5
    assert longnet.max_len == 64 and longnet.encoder_layers[0].attention.attention.pattern.causal


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_the_dtype_is_that_of_the_file(dtype, tmp_path):
    model = FeedForward(4, 6).to(dtype)
    save_model(tmp_path / "made", model)
    loaded = load_model(tmp_path / "made")
    for name, p in model.named_parameters():
        assert loaded.get_parameter(name).dtype == dtype and torch.equal(loaded.get_parameter(name), p)


def test_projections_load_fused_from_split_and_split_from_fused(tmp_path):
    split = load_model(SAVED / "layer").eval()
    fused = TransformerLayer(**{**split.config, "fused_qkv": True}).eval()
    load_weights(fused, split.state_dict())
    x = load_file(SAVED / "layer" / "run.safetensors")["in"]
    close(fused(x), split(x), 1e-5)  # products of another width are summed in another order
    split.reset_parameters()
    load_weights(split, fused.state_dict())
    close(split(x), fused(x), 1e-5)
    # What cannot be one matrix, or cut into three, is reported like anything else that does not fit.
    bare = split.state_dict()
    bare["attention.q_proj.weight"] = torch.tensor(1.0)
    for module, state in ((fused, bare), (split, {"attention.qkv_proj.weight": torch.tensor(1.0)})):
        with pytest.raises(ValueError, match="^the weights do not fit the module: missing .*unknown attention.q"):
            load_weights(module, state)


def test_weights_that_do_not_fit_leave_the_module_as_it_was():
    module = FeedForward(4, 6)
    before = {name: p.clone() for name, p in module.state_dict().items()}
    wrong = {**before, "more": torch.zeros(1), "fc1.bias": torch.zeros(5), "fc2.bias": torch.zeros(4, dtype=torch.int64)}
    wrong["fc1.weight"] = wrong["fc1.weight"] + 1
    del wrong["fc2.weight"]
    words = r"missing fc2.weight, fc1.bias is \[5\] and must be \[6\], fc2.bias is Long and must be Float, unknown more"
    with pytest.raises(ValueError, match=f"^the weights do not fit the module: {words}; nothing was loaded"):
        load_weights(module, wrong)
    assert all(torch.equal(before[name], p) for name, p in module.state_dict().items())


def test_a_folder_is_replaced_whole_or_stays(tmp_path):
    folder, one, two = tmp_path / "made", FeedForward(4, 6), FeedForward(4, 6)
    save_model(folder, one, lambda beside: (beside / "notes.txt").write_text("first"))
    assert (folder / "notes.txt").read_text() == "first"

    def fail(beside):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="cannot use .*made: No space left on device"):
        save_model(folder, two, fail)
    assert (folder / "notes.txt").exists() and torch.equal(load_model(folder).fc1.weight, one.fc1.weight)
    save_model(folder, two)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(load_model(folder).fc1.weight, two.fc1.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for path, words in (("other", "it holds files but no checkpoint"), ("other/thesis.tex", "it is not a directory")):
        with pytest.raises(ValueError, match=words):
            save_model(tmp_path / path, one)
    with pytest.raises(ValueError, match="^model must be one of DilatedAttention, .*LongNetLM, got Linear"):
        save_model(tmp_path / "new", torch.nn.Linear(1, 1))


def described(**changes):
    good = {"model": "FeedForward", "format_version": 1, "config": {"dim": 4, "hidden": 6}}
    return json.dumps({**good, **changes}).encode()


@pytest.mark.parametrize(
    "config, words",
    (
        (None, "config.json: No such file"),
        (b"{", "it is not the config of a longstride checkpoint"),
        (described(config=[]), "it is not the config of a longstride checkpoint"),
        (described(model="LongNet"), "it is not the config of a FeedForward checkpoint, but of a LongNet"),
        (described(format_version=2), "its format_version is 2; this package reads 1"),
        (described(config={"dim": 4, "hiden": 6}), r"unknown config key 'hiden'; one of \[dim.*did you mean 'hidden'"),
        (described(config={"dim": 4, "hidden": "6"}), "config.json: hidden must be an integer, got '6'"),
        (described(config={"dim": 4, "hidden": 0}), "config.json: dim_feedforward must be positive, got 0"),
        (described(config={"dim": 4}), "config.json: .*hidden"),
        (described(config={"dim": 4, "hidden": 6, "dtype": "x"}), "unknown config key 'dtype'"),
        (described(config={"dim": 4, "hidden": 7}), r"model.safetensors: the weights do not fit.*fc1.weight is \[6, 4\]"),
        (b" " * (1 << 20) + described(), "it is too long for a config"),
    ),
)
def test_configs_that_are_refused(config, words, tmp_path):
    save_model(tmp_path / "made", FeedForward(4, 6))
    (tmp_path / "made" / "config.json").unlink()
    if config is not None:
        (tmp_path / "made" / "config.json").write_bytes(config)
    with pytest.raises(ValueError, match=f"^cannot use {tmp_path}.*{words}"):
        load_model(tmp_path / "made", FeedForward)


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", sizes=(1,), begin=0, end=4):
    return {"a": {"dtype": dtype, "shape": list(sizes), "data_offsets": [begin, end]}}


@pytest.mark.parametrize(
    "data, words",
    (
        (None, "No such file"),
        (b"short", "it is too short"),
        (struct.pack("<Q", 1 << 40), "it is truncated, or not safetensors"),
        (file_of(b"[1]"), "its header is corrupt"),
        (file_of(b"\xff"), "its header is corrupt"),
        (file_of({"a": {"dtype": "F32"}}), "its header is corrupt"),
        (file_of(entry("F8"), bytes(4)), "tensor 'a' has dtype 'F8', which is not supported"),
        (file_of(entry(sizes=(2,)), bytes(4)), r"tensor 'a' of shape \[2\] and dtype F32 has bytes 0 to 4"),
        (file_of(entry(sizes=(-1, -1)), bytes(4)), r"tensor 'a' of shape \[-1, -1\]"),
        (file_of(entry(begin=4, end=8), bytes(8)), "tensor 'a' overlaps another or leaves a hole"),
        (file_of(entry(), bytes(3)), "it is truncated: its header says 4 bytes"),
        (file_of(entry(), bytes(5)), "it has a tail"),
    ),
)
def test_damaged_weights_are_refused(data, words, tmp_path):
    save_model(tmp_path / "made", FeedForward(4, 6))
    path = tmp_path / "made" / "model.safetensors"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^cannot use {path}: .*{words}"):
        load_model(tmp_path / "made")


def test_files_of_the_safetensors_library_are_read(tmp_path):
    model = FeedForward(4, 6)
    save_model(tmp_path / "made", model)
    halved = {name: (p / 2).contiguous() for name, p in model.state_dict().items()}
    save_file(halved, tmp_path / "made" / "model.safetensors", {"by": "another"})
    assert torch.equal(load_model(tmp_path / "made").fc2.weight, model.fc2.weight / 2)
