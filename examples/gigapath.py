#!/usr/bin/env python3
"""Tile embeddings of a slide to the slide's embedding, with Prov-GigaPath's slide encoder over longstride's attention.

    python examples/gigapath.py TILES --weights slide_encoder.pth --out slide.pt

TILES is a folder of *.pt files, read in the order of their names. Each holds {"tile_embeds": [tiles, 1536], "coords":
[tiles, 2]} as GigaPath's pipeline returns it, or one tile's embedding [1536] in a file named by its coordinates,
01581x_25327y.pt. The model is built here from --config, with the parameters' names of GigaPath's own, so that its
slide_encoder.pth loads; without --weights they are drawn from --seed. Needs torch and longstride, no GPU.

--out gets {"slide_embedding": [1, width], "layers": [layers + 1, width]}: "layers" is pooled before the first layer and
after each, as all_layer_embed=True gives it.
"""

import argparse
import json
import pathlib
import re
import sys
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from longstride.compat.torchscale import DilatedAttention

# gigapath_slide_enc12l768d; --config replaces any of these.
CONFIG = {
    "in_chans": 1536,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 16,
    "mlp_ratio": 4,
    "segment_length": [1024, 5792, 32768, 185363, 1048576],
    "dilated_ratio": [1, 2, 4, 8, 16],
    "slide_ngrids": 1000,
    "tile_size": 256,
    "global_pool": True,
}
NAMED = re.compile(r"(\d+)x_(\d+)y")


def progress(done: int, total: int, what: str) -> None:
    bar = "#" * (30 * done // total)
    end = "\n" if done == total else ""
    print(f"\r{what:<12} [{bar:<30}] {done}/{total}", end=end, file=sys.stderr, flush=True)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.ffn_layernorm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.ffn_layernorm(nn.functional.gelu(self.fc1(x))))


class Layer(nn.Module):
    def __init__(self, config: SimpleNamespace):
        super().__init__()
        width = config.embed_dim
        self.self_attn = DilatedAttention(config, width, config.num_heads, self_attention=True, subln=True)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ffn = FeedForward(width, int(width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, y)[0]
        return x + self.ffn(self.final_layer_norm(x))


class SlideEncoder(nn.Module):
    """GigaPath's, for inference: tiles [1, count, in_chans] and their coordinates [1, count, 2] in pixels."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Linear(config.in_chans, config.embed_dim)})
        self.encoder = nn.ModuleDict(
            {
                "layers": nn.ModuleList(Layer(config) for _ in range(config.depth)),
                "layer_norm": nn.LayerNorm(config.embed_dim),
            }
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)

    def positions(self, coords: Tensor) -> Tensor:
        """Sines and cosines of a tile's cell: half of the width for its y, half for its x. GigaPath has a table of all
        cells, 3 GB at its usual size; here are only the rows that are asked for."""
        grid, quarter = self.config.slide_ngrids, self.config.embed_dim // 4
        cell = torch.floor(coords / self.config.tile_size).long()
        if cell.min() < 0 or cell.max() >= grid:
            raise SystemExit(f"coords must lie on {grid} x {grid} tiles of {self.config.tile_size} pixels")
        rates = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
        y, x = (cell[..., axis, None] * rates for axis in (1, 0))
        return torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], -1).to(self.cls_token.dtype)

    def pooled(self, x: Tensor) -> Tensor:
        return self.norm(x[:, 1:].mean(1)) if self.config.global_pool else self.norm(x)[:, 0]

    def forward(self, tiles: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """(slide embedding [1, width], pooled states [layers + 1, width])."""
        x = self.patch_embed["proj"](tiles) + self.positions(coords)
        x = torch.cat([self.cls_token.expand(x.size(0), -1, -1), x], 1)
        pooled, layers = [self.pooled(x)], self.encoder["layers"]
        for done, layer in enumerate(layers):
            progress(done, len(layers), "layers")
            x = layer(x)
            pooled.append(self.pooled(x))
        progress(len(layers), len(layers), "layers")
        return self.pooled(self.encoder["layer_norm"](x)), torch.cat(pooled)


def one_file(path: pathlib.Path) -> tuple[Tensor, Tensor]:
    held = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(held, dict):
        if not {"tile_embeds", "coords"} <= held.keys():
            raise SystemExit(f"{path} must hold tile_embeds and coords, got {sorted(held)}")
        return held["tile_embeds"].flatten(0, -2).float(), held["coords"].reshape(-1, 2).float()
    named = NAMED.search(path.stem)
    if named is None:
        raise SystemExit(f"{path} holds no coords: its name must say them, as 01581x_25327y.pt does")
    return held.reshape(1, -1).float(), torch.tensor([[float(n) for n in named.groups()]])


def read_tiles(folder: pathlib.Path, width: int) -> tuple[Tensor, Tensor]:
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise SystemExit(f"{folder} must hold *.pt files of tile embeddings, got none")
    parts = []
    for done, path in enumerate(files, 1):
        parts.append(one_file(path))
        tiles, coords = parts[-1]
        if tiles.size(1) != width or len(tiles) != len(coords):
            raise SystemExit(
                f"{path} must hold [tiles, {width}] embeddings and [tiles, 2] coords, got {list(tiles.shape)} and "
                f"{list(coords.shape)}"
            )
        progress(done, len(files), "tile files")
    tiles, coords = (torch.cat(part)[None] for part in zip(*parts))
    return tiles, coords


def load_weights(model: nn.Module, path: pathlib.Path) -> None:
    held = torch.load(path, weights_only=True, map_location="cpu")
    missing, unexpected = model.load_state_dict(held.get("model", held), strict=False)
    if missing:
        lacking = f"{path} lacks {len(missing)} of the model's parameters, such as {missing[0]}"
        raise SystemExit(f"{lacking}; does --config fit?")
    if unexpected:
        print(f"{path}: {len(unexpected)} tensors are not used, such as {unexpected[0]}", file=sys.stderr)


def draw_weights(model: nn.Module) -> None:
    """GigaPath's initialisation."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(model.cls_token, std=0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tiles", type=pathlib.Path, help="folder of *.pt files")
    parser.add_argument("--config", type=pathlib.Path, help=f"JSON that replaces any of {', '.join(CONFIG)}")
    parser.add_argument("--weights", type=pathlib.Path, help="slide_encoder.pth")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, without --weights")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("slide.pt"))
    given = parser.parse_args()

    replaced = json.loads(given.config.read_text()) if given.config else {}
    if unknown := sorted(set(replaced) - set(CONFIG)):
        raise SystemExit(f"{given.config} has unknown keys {unknown}; one of {sorted(CONFIG)}")
    config = SimpleNamespace(**{**CONFIG, **replaced})
    tiles, coords = read_tiles(given.tiles, config.in_chans)
    torch.manual_seed(given.seed)
    model = SlideEncoder(config)
    if given.weights:
        load_weights(model, given.weights)
    else:
        draw_weights(model)
        print(f"no --weights: they are drawn from seed {given.seed}", file=sys.stderr)
    dtype = getattr(torch, given.dtype)
    with torch.inference_mode():
        slide, layers = model.eval().to(dtype)(tiles.to(dtype), coords)
    torch.save({"slide_embedding": slide.float(), "layers": layers.float()}, given.out)
    print(f"{tiles.size(1)} tiles -> {given.out}: slide_embedding {list(slide.shape)}, layers {list(layers.shape)}")


if __name__ == "__main__":
    main()
