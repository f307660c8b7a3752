"""What each process of test_parallel_models.py does: models whose sequences lie with several ranks.

python model_ranks.py RANK FOLDER: writes FOLDER/RANK.pt, what each check came to by its name.
"""

import copy
import pathlib
import pickle
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402, F401: where the package is
from parallel_ranks import LAYOUTS, boundaries_of, positions_of, said  # noqa: E402
from support import inputs  # noqa: E402

from longstride import factory, parallel  # noqa: E402
from longstride.compat import dilated_attention_pytorch  # noqa: E402
from longstride.nn import LongNet, LongNetLM, MultiheadDilatedAttention  # noqa: E402

PROCESSES = 4
WORLDS = (2, 3, 4)
LENGTH = 25
LM = {
    "vocab": 11, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2,
    "segment_lengths": [4, 16], "dilation_rates": [1, 2],
    "blocks": [{"pattern": "local_window", "block_size": 4, "window": 8}],
    "sinks": True, "qk_norm": True,
}  # fmt: skip
# Two, three and four ranks divide its heads.
DROPPING = {**LM, "dim": 96, "heads": 12, "kv_heads": 12, "attention_dropout": 0.3}
LONGNET = {
    "num_encoder_layers": 1, "num_decoder_layers": 1, "d_model": 32, "nhead": 4, "segment_lengths": [4, 16],
    "dilation_rates": [1, 2], "dim_feedforward": 16, "positions": "xpos", "max_len": 25,
}  # fmt: skip
ATTENTION = {"embed_dim": 16, "num_heads": 2, "segment_lengths": [4, 16], "dilation_rates": [1, 2], "positions": "rope"}


# Two, three and four ranks divide its heads; a block of 4 tokens lies with one rank or with two.
LEARNED = {"density": 0.5, "block_size": 4, "hidden": 8}
LEARNING = {**ATTENTION, "embed_dim": 48, "num_heads": 12, "learned": LEARNED}


def frozen(**options):
    model = MultiheadDilatedAttention(**options)
    model.attention.scorer.requires_grad_(False)
    return model


def made(kind, options, **more):
    torch.manual_seed(4)
    return kind(**{**options, **more}, dtype=torch.float64)


def tokens(seed=1):
    ids = torch.randint(11, (2, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    targets[1, 17:] = -100
    return ids[:, :-1], targets


def embeddings(seed, width=32):
    return torch.randn(2, LENGTH, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(model, group=None):
    """Of the sum of the ranks' losses."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if group is not None:
            dist.all_reduce(found[name], group=group)
    return found


def call_of(world, layout):
    """The arguments of a call on a shard, and of place()."""
    return {"boundaries": boundaries_of(LENGTH, world, layout)}, "zigzag" if layout == "zigzag" else "contiguous"


def language_model(at, model, **call):
    """Logits, and this rank's part of the loss."""
    ids, targets = (t[:, at] for t in tokens())
    logits = model(ids, **call)
    loss = model.loss(ids, targets, **call)
    loss.backward()
    return logits.detach(), loss.detach()


def encoder_decoder(at, model, **call):
    source, target, weights = (embeddings(seed)[:, at] for seed in (1, 2, 3))
    out = model(source, target, **call)
    loss = (out * weights).sum()
    loss.backward()
    return out.detach(), loss.detach()


def multihead(at, model, **call):
    x, weights = (embeddings(seed, 16)[:, at] for seed in (1, 2))
    out, lse = model(x, lengths=[LENGTH, 14], need_lse=True, **call)
    loss = (out * weights).sum()
    loss.backward()
    return out.detach(), loss.detach()


def learned(at, model, **call):
    width, choices = model.embed_dim, []
    x, weights = (embeddings(seed, width)[:, at] for seed in (1, 2))
    out, lse = model(x, lengths=[LENGTH, 14], choices=choices, **call)
    (choice,) = choices
    loss = (out * weights).sum() + 3 * choice.density_loss
    loss.backward()
    return out.detach(), loss.detach()


MODELS = {
    "LongNetLM": (LongNetLM, LM, {}, language_model),
    "LongNetLM with checkpointing": (LongNetLM, LM, {"activation_checkpointing": True}, language_model),
    "LongNetLM without positions": (LongNetLM, LM, {"positions": "none"}, language_model),
    "LongNetLM with alibi": (
        LongNetLM, {**LM, "dim": 96, "heads": 12, "kv_heads": 12, "positions": "alibi"}, {}, language_model,
    ),  # fmt: skip
    "LongNetLM with dropout of pairs": (LongNetLM, DROPPING, {}, language_model),
    "LongNetLM with dropout of pairs and checkpointing": (
        LongNetLM, DROPPING, {"activation_checkpointing": True}, language_model,
    ),  # fmt: skip
    "LongNet": (LongNet, LONGNET, {}, encoder_decoder),
    "MultiheadDilatedAttention": (MultiheadDilatedAttention, ATTENTION, {}, multihead),
    "learned blocks": (MultiheadDilatedAttention, LEARNING, {}, learned),
    "learned blocks, causal": (
        MultiheadDilatedAttention, {**LEARNING, "kv_heads": 12, "num_heads": 24, "embed_dim": 96, "causal": True},
        {"learned": {**LEARNED, "min_density": 0.2, "max_density": 0.7}, "attention_dropout": 0.3}, learned,
    ),  # fmt: skip
    "learned blocks that learn no more": (frozen, ATTENTION, {"learned": LEARNED}, learned),
}


def models(rank, of_size):
    found = {}
    for name, (kind, options, more, run) in MODELS.items():
        for world in WORLDS:
            for layout in LAYOUTS:
                if rank >= world:
                    continue
                call, order = call_of(world, layout)
                model = parallel.place(made(kind, options, **more), of_size[world], layout=order)
                at = torch.tensor(positions_of(rank, LENGTH, world, layout), dtype=torch.int64)
                if rank > 0:
                    torch.manual_seed(rank)  # pairs are dropped by what the first rank draws
                out, loss = run(at, model, **call)
                dist.all_reduce(loss, group=of_size[world])
                found[name, world, layout] = out, loss, gradients(model, of_size[world])
    return found


def trained(model, at, group=None, **call):
    """The weights after three steps."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(3):
        ids, targets = (t[:, at] for t in tokens(step))
        optimizer.zero_grad()
        model.loss(ids, targets, **call).backward()
        for parameter, grad in zip(model.parameters(), gradients(model, group).values()):
            parameter.grad = grad
        optimizer.step()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def training(rank, of_size):
    found = {}
    for world in (2, 4):
        if rank < world:
            model = parallel.place(made(LongNetLM, LM), of_size[world], layout="zigzag")
            at = positions_of(rank, LENGTH, world, "zigzag")
            found[world] = trained(model, at, of_size[world], boundaries=LENGTH)
    return found


def copies(rank, of_size):
    """A placed module, and its copies: one that was pickled, and one from its config and weights, placed anew."""
    if rank >= 2:
        return None
    model = parallel.place(made(MultiheadDilatedAttention, ATTENTION), of_size[2])
    loaded = MultiheadDilatedAttention(**model.config, dtype=torch.float64)
    loaded.load_state_dict(model.state_dict())
    assert loaded.attention.context_parallel is None
    at = positions_of(rank, LENGTH, 2, "even")
    made_anew = parallel.place(loaded, of_size[2].group_name)
    all_of_it = [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), made_anew]
    return [multihead(at, one, boundaries=LENGTH)[0] for one in all_of_it]


def refusals(rank, of_size):
    if rank >= 2:
        return None
    x = embeddings(1, 16)[:, :12]
    attention = parallel.place(made(MultiheadDilatedAttention, ATTENTION), of_size[2])
    of_one_head = {**ATTENTION, "num_heads": 1}
    dropping = parallel.place(made(MultiheadDilatedAttention, of_one_head, attention_dropout=0.1), of_size[2])
    model = parallel.place(made(LongNetLM, LM), of_size[2]).eval()
    short = parallel.place(made(LongNet, LONGNET), of_size[2])
    learning = parallel.place(made(MultiheadDilatedAttention, of_one_head, learned=LEARNED), of_size[2])
    by_two = parallel.place(made(MultiheadDilatedAttention, ATTENTION, learned=LEARNED, positions="none"), of_size[2], exchange="ring")
    alibi = {**ATTENTION, "positions": "alibi"}
    biased = parallel.place(made(MultiheadDilatedAttention, {**alibi, "num_heads": 1}), of_size[2])
    by_ring = parallel.place(made(MultiheadDilatedAttention, alibi), of_size[2], exchange="ring")
    calls = {
        "slopes": lambda: biased(x),
        "slopes by a ring": lambda: by_ring(x),
        "mask": lambda: attention(x, key_padding_mask=torch.zeros(2, 12, dtype=torch.bool)),
        "dropout": lambda: dropping(x),
        "decoding": lambda: model.generate(torch.zeros(1, 4, dtype=torch.int64), max_tokens=2),
        "max_len": lambda: short(embeddings(1)[:, :13], boundaries=26),
        "learned": lambda: learning(x),
        "learned by a ring": lambda: by_two(x),
        "learned of documents": lambda: by_two(x, cu_seqlens=[0, 24]),
        "learned of other rows": lambda: by_two(x[:, rank:], boundaries=24, lengths=[24, 9]),
        "learned of other lengths": lambda: by_two(x, lengths=[24, 5 + rank]),
        "no target": lambda: model.loss(torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), -100)),
        "works": lambda: attention(x)[0].shape,
    }
    return {name: said(make) for name, make in calls.items()}


GROUPS = {"segment_lengths": [4, 16], "dilation_rates": [1, 2]}
WIDTH = {"embed_dim": 16, "num_heads": 2}
WINDOW = {"pattern": "local_window", "block_size": 4, "window": 8}
# Every name that says ring or distributed: how it is built of the options that say where it runs.
NAMES = {
    **{
        f"{kind}": lambda kind=kind, **where: factory.create_multihead_dilated_attention(
            kind, **WIDTH, **GROUPS, dtype="float64", **where
        )
        for kind in ("ring", "distributed", "auto")
    },
    **{
        f"{kind}": lambda kind=kind, **where: factory.create_dilated_attention(kind, **GROUPS, **WINDOW, **where)
        for kind in ("block_sparse_ring", "block_sparse_ring_distributed")
    },
    **{
        name: lambda name=name, **where: factory.from_legacy_attention(name, **GROUPS, **where)
        for name in factory.legacy_class_names()
        if "Ring" in name and "Multihead" not in name and "Distributed" not in name and "Sparse" not in name
    },
    **{
        name: lambda name=name, **where: factory.from_legacy_multihead(
            name, **WIDTH, **GROUPS, dtype=torch.float64, **where
        )
        for name in ("RingMultiheadDilatedAttention", "RingDistributedDilatedAttention")
    },
    **{
        f"compat {name}": lambda name=name, **where: getattr(dilated_attention_pytorch, name)(
            **GROUPS, **({} if "Sparse" in name else where)
        )
        for name in ("RingDilatedAttention", "RingDilatedAttentionProduction", "BlockSparseRingDilatedAttention")
    },
    "block_sparse_adaptive": lambda **where: parallel.place(
        factory.create_multihead_dilated_attention(
            "block_sparse_adaptive", embed_dim=16, num_heads=4, **GROUPS, block_size=4, sparsity_ratio=0.6, dtype="float64"
        )
    ),
    "compat BlockSparseAdaptive": lambda **where: parallel.place(
        dilated_attention_pytorch.BlockSparseAdaptive(
            *([64], [1]), 4, 8, dilated_attention_pytorch.AdaptiveConfig(base_sparsity=0.6), block_size=4
        ).double()
    ),
    "compat DistributedImprovedMultiheadDilatedAttention": lambda **where: (
        dilated_attention_pytorch.DistributedImprovedMultiheadDilatedAttention(**WIDTH, **GROUPS, dtype=torch.float64)
    ),
}  # fmt: skip


def by_name(build, at, seed=1, **where):
    """Out of a module of seeded weights on the rows `at` of a sequence of 24."""
    torch.manual_seed(4)
    module = build(**where)
    if hasattr(module, "embed_dim"):
        x = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        out = module(x[:, at])
    else:
        out = module(*(t[:, at] for t in inputs(length=24, kv_heads=4, dtype=torch.float64, seed=seed)))
    return (out if isinstance(out, torch.Tensor) else out[0]).detach()


def named(rank, of_size):
    """On all ranks, and in rings of two, each with a sequence of its own, where a name takes a ring_size."""
    found = {}
    for name, build in NAMES.items():
        # Two classes have rings of one rank unless they are told otherwise.
        where = {"ring_size": 4} if name in ("SimulatedRingDilatedAttention", "TrueRingDilatedAttention") else {}
        found[name] = by_name(build, positions_of(rank, 24, 4, "even"), **where)
    for name in ("ring", "distributed", "RingDilatedAttentionV2"):
        at = positions_of(rank % 2, 24, 2, "even")
        found[name, "rings"] = by_name(NAMES[name], at, seed=5 + rank // 2, ring_size=2)
    return found


def main(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=9))
    of_size = {world: dist.new_group(range(world)) for world in WORLDS}
    found = {check.__name__: check(rank, of_size) for check in (models, training, copies, refusals, named)}
    torch.save(found, pathlib.Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
