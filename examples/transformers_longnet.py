#!/usr/bin/env python3
"""A Llama of transformers with LongNet's dilated attention, trained on the bytes of a text, and what it writes then.

    python examples/transformers_longnet.py TEXT --steps 200 --out folder --prompt "To be"

The model is made here from a config, in which the pattern stands too, so that --out, which is a folder of
save_pretrained(), has it: register() and from_pretrained(folder, attn_implementation="longstride") are all that another
program needs. Generation keeps keys and values. Needs torch, transformers and longstride, no GPU and no network.
"""

import argparse
import pathlib
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longstride.compat.transformers import register


def progress(done: int, total: int, what: str) -> None:
    bar = "#" * (30 * done // total)
    end = "\n" if done == total else ""
    print(f"\r{what:<12} [{bar:<30}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def model_of(arguments: argparse.Namespace) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=256,  # bytes
        hidden_size=arguments.dim,
        intermediate_size=4 * arguments.dim,
        num_hidden_layers=arguments.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=arguments.length,
        bos_token_id=None,
        eos_token_id=None,
        longstride={"segment_lengths": arguments.segment_lengths, "dilation_rates": arguments.dilation_rates},
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="longstride")


def train(model: LlamaForCausalLM, text: torch.Tensor, arguments: argparse.Namespace) -> tuple[float, float]:
    """The loss of the first and of the last step; each takes one piece of the text."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr)
    length = min(arguments.length, len(text))
    losses = []
    for step in range(arguments.steps):
        start = int(torch.randint(len(text) - length + 1, ()))
        ids = text[None, start : start + length]
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, arguments.steps, f"loss {losses[-1]:.3f}")
    return losses[0], losses[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="a file; its bytes are the tokens")
    parser.add_argument("--prompt", default="T", help="what is continued")
    parser.add_argument("--tokens", type=int, default=64, help="how many bytes are written")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--length", type=int, default=512, help="tokens of a step, and positions of the model")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--segment-lengths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--dilation-rates", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="a folder for the model")
    arguments = parser.parse_args()
    if not arguments.text.is_file() or arguments.text.stat().st_size < 2:
        sys.exit(f"{arguments.text} must be a file of at least 2 bytes")
    prompt = arguments.prompt.encode()
    if not prompt or arguments.tokens < 1 or len(prompt) + arguments.tokens > arguments.length:
        sys.exit(f"--prompt and --tokens must be of 1 to --length {arguments.length} bytes together")

    register()
    torch.manual_seed(arguments.seed)
    model = model_of(arguments)
    if arguments.steps > 0:
        first, last = train(model, torch.tensor(list(arguments.text.read_bytes())), arguments)
        print(f"loss {first:.3f} -> {last:.3f} in {arguments.steps} steps")
    model.eval()
    if arguments.out is not None:
        model.save_pretrained(arguments.out)
    ids = torch.tensor([list(prompt)])
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=arguments.tokens, pad_token_id=0)
    print(bytes(written[0].tolist()).decode(errors="replace"))


if __name__ == "__main__":
    main()
