"""The examples: gigapath.py against its definition in plain torch, transformers_longnet.py against its saved model."""

import json
import pathlib
import re
import runpy
import sys

import pytest
import torch
import torch.nn.functional as F
from support import close
from torchscale_algorithm import attend

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
EXAMPLE = EXAMPLES / "gigapath.py"
CONFIG = {
    "in_chans": 24,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2,
    "segment_length": "[8, 20, 64]",
    "dilated_ratio": "[1, 2, 4]",
    "slide_ngrids": 7,
    "tile_size": 10,
}
COUNT = 33


@pytest.fixture
def run(folder, monkeypatch):
    """Runs the example over the folder, as `python examples/gigapath.py` does."""
    monkeypatch.chdir(folder)

    def once(*arguments):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "tiles", "--config", "config.json", *arguments])
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    return once


def shapes():
    """GigaPath's keys, of the parameters that its slide encoder has."""
    wide = 16
    linear = {"self_attn.k_proj": (wide, wide), "self_attn.v_proj": (wide, wide), "self_attn.q_proj": (wide, wide)}
    linear |= {"self_attn.out_proj": (wide, wide), "ffn.fc1": (32, wide), "ffn.fc2": (wide, 32)}
    norms = {"self_attn.inner_attn_ln": wide, "self_attn_layer_norm": wide, "final_layer_norm": wide}
    norms["ffn.ffn_layernorm"] = 32
    of = {"cls_token": (1, 1, wide), "patch_embed.proj.weight": (wide, 24), "patch_embed.proj.bias": (wide,)}
    for prefix in ("encoder.layers.0.", "encoder.layers.1."):
        for name, shape in linear.items():
            of |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name, width in norms.items():
            of |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
    for name in ("encoder.layer_norm", "norm"):
        of |= {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}
    return of


def slide(weights, tiles, coords):
    """(embedding, pooled states): pre-norm layers, the table of positions, the mean over tiles."""

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x, eps=1e-5):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    rates = 10000.0 ** -(torch.arange(4, dtype=torch.float64) / 4)
    waves = torch.arange(7, dtype=torch.float64)[:, None] * rates
    waves = torch.cat([waves.sin(), waves.cos()], 1)
    table = torch.cat([waves.repeat(7, 1), waves.repeat_interleave(7, 0)], 1).float()
    cell = (coords // 10).long()
    x = linear("patch_embed.proj", tiles) + table[cell[:, 0] * 7 + cell[:, 1]]
    x = torch.cat([weights["cls_token"][0], x])[None]
    pooled = [norm("norm", x[:, 1:].mean(1), 1e-6)]
    for i in range(2):
        layer = f"encoder.layers.{i}."
        own = f"{layer}self_attn."
        attention = {name.removeprefix(own): w for name, w in weights.items() if name.startswith(own)}
        x = x + attend(attention, norm(f"{layer}self_attn_layer_norm", x), 4, [8, 20, 64], [1, 2, 4])
        y = F.gelu(linear(f"{layer}ffn.fc1", norm(f"{layer}final_layer_norm", x)))
        x = x + linear(f"{layer}ffn.fc2", norm(f"{layer}ffn.ffn_layernorm", y))
        pooled.append(norm("norm", x[:, 1:].mean(1), 1e-6))
    return norm("norm", norm("encoder.layer_norm", x)[:, 1:].mean(1), 1e-6), torch.cat(pooled)


@pytest.fixture
def folder(tmp_path):
    """A slide of tiles in both forms of files, its config and weights."""
    generator = torch.Generator().manual_seed(4)
    tiles, coords = torch.randn(COUNT, 24, generator=generator), torch.randint(70, (COUNT, 2), generator=generator)
    (tmp_path / "tiles").mkdir()
    for i in range(3):  # files are read in the order of their names
        torch.save(tiles[i].clone(), tmp_path / "tiles" / f"{i}_{coords[i, 0]:05d}x_{coords[i, 1]:05d}y.pt")
    for i in (3, 18):
        held = {"tile_embeds": tiles[i : i + 15].clone(), "coords": coords[i : i + 15].float()}
        torch.save(held, tmp_path / "tiles" / f"many_{i:02d}.pt")
    weights = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes().items()}
    torch.save({"model": {**weights, "mask_token": torch.zeros(1)}}, tmp_path / "slide_encoder.pth")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(slide(weights, tiles, coords), tmp_path / "expected.pt")
    return tmp_path


def test_a_folder_of_tiles_becomes_a_slide_embedding(folder, run, capsys):
    run("--weights", "slide_encoder.pth")
    said = capsys.readouterr()
    assert said.out == "33 tiles -> slide.pt: slide_embedding [1, 16], layers [3, 16]\n"
    assert re.search(r"layers +\[#{30}\] 2/2", said.err)
    assert "1 tensors are not used, such as mask_token" in said.err
    made, (embedding, layers) = torch.load(folder / "slide.pt"), torch.load(folder / "expected.pt")
    close(made["slide_embedding"], embedding)
    close(made["layers"], layers)


def test_weights_are_drawn_from_a_seed(folder, run):
    made = []
    for seed in ("1", "1", "2"):
        run("--seed", seed)
        made.append(torch.load(folder / "slide.pt")["slide_embedding"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def held(tiles, coords, width=24):
    return {"tile_embeds": torch.zeros(tiles, width), "coords": torch.tensor(coords)}


@pytest.mark.parametrize(
    "file, words",
    (
        (torch.zeros(24), "its name must say them, as 01581x_25327y.pt does"),
        ({"features": torch.zeros(24)}, r"must hold tile_embeds and coords, got \['features'\]"),
        (held(2, [[0.0, 0.0]]), r"must hold \[tiles, 24\] embeddings and \[tiles, 2\] coords"),
        (held(1, [[0.0, 0.0]], 23), r"must hold \[tiles, 24\] embeddings"),
        (held(1, [[70.0, 0.0]]), "coords must lie on 7 x 7 tiles of 10 pixels"),
    ),
)
def test_tiles_that_are_refused(folder, run, file, words):
    torch.save(file, folder / "tiles" / "last.pt")
    with pytest.raises(SystemExit, match=words):
        run()


def test_weights_and_configs_that_are_refused(folder, run):
    torch.save({"norm.weight": torch.zeros(16)}, folder / "few.pth")
    with pytest.raises(SystemExit, match="few.pth lacks 46 of the model's parameters"):
        run("--weights", "few.pth")
    (folder / "config.json").write_text(json.dumps({"heads": 4}))
    with pytest.raises(SystemExit, match=r"config.json has unknown keys \['heads'\]"):
        run()


def longnet(monkeypatch, *arguments):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["transformers_longnet.py", *arguments])
    runpy.run_path(str(EXAMPLES / "transformers_longnet.py"), run_name="__main__")


def test_a_llama_learns_a_text_and_is_saved_with_its_pattern(tmp_path, monkeypatch, capsys):
    (tmp_path / "text").write_bytes(b"to be or not to be, that is the question. " * 10)
    options = ["--steps", "12", "--length", "96", "--segment-lengths", "16", "64", "--dilation-rates", "1", "2"]
    folder = tmp_path / "model"
    longnet(monkeypatch, str(tmp_path / "text"), *options, "--prompt", "to be", "--tokens", "40", "--out", str(folder))
    said = capsys.readouterr().out
    first, last, text = re.fullmatch(r"loss (\S+) -> (\S+) in 12 steps\n(to be.*)\n", said, re.S).groups()
    assert float(last) < float(first) - 0.5

    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="longstride")
    assert model.config.longstride == {"segment_lengths": [16, 64], "dilation_rates": [1, 2]}
    ids = torch.tensor([list(b"to be")])
    with torch.no_grad():
        for _ in range(40):  # every token recomputed
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(2)], 1)
    assert bytes(ids[0].tolist()).decode(errors="replace") == text


@pytest.mark.parametrize(
    "options, words",
    (
        (["absent"], "absent must be a file of at least 2 bytes"),
        ([str(EXAMPLE), "--prompt", ""], "--prompt and --tokens must be of 1 to --length 512 bytes together"),
        ([str(EXAMPLE), "--length", "64"], "--prompt and --tokens must be of 1 to --length 64 bytes together"),
    ),
)
def test_what_the_llama_refuses(options, words, monkeypatch):
    with pytest.raises(SystemExit, match=words):
        longnet(monkeypatch, *options)
