"""What each of two processes of test_integration_ranks.py does: models under DDP and FSDP2 over Gloo, on the CPU.

python gloo_ranks.py RANK FOLDER: writes FOLDER/RANK.pt, what each check came to by its name.
"""

import pathlib
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import conftest  # noqa: E402, F401: where the package is

from longstride.nn import LongNetLM  # noqa: E402

RANKS = 2
OPTIONS = {
    "vocab": 11, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "segment_lengths": [4, 16], "dilation_rates": [1, 2],
    "blocks": [{"pattern": "local_window", "block_size": 4, "window": 8}], "sinks": True,
}  # fmt: skip


def model_of(dtype=torch.float64, **more):
    torch.manual_seed(4)
    return LongNetLM(**OPTIONS, **more, dtype=torch.float64).to(dtype)


def tokens():
    return torch.randint(11, (2 * RANKS, 20), generator=torch.Generator().manual_seed(1))


def loss_of(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def gradients(model):
    return {name.removeprefix("module."): whole(p.grad) for name, p in model.named_parameters()}


def data_parallel(own, checkpointing=False, dtype=torch.float64, autocast=False, **more):
    model = model_of(dtype, activation_checkpointing=checkpointing, **more)
    parallel = DistributedDataParallel(model)
    torch.manual_seed(9 + dist.get_rank())  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(parallel(own), own)
    loss.backward()
    return gradients(parallel)


def sharded(model, **policy):
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, **policy)
    return fully_shard(model, mesh=mesh, **policy)


def fully_sharded(own):
    model = sharded(model_of(activation_checkpointing=True))
    assert model.layers[0].attention.qkv_proj.weight.to_local().size(0) == 64 // RANKS
    loss_of(model(own), own).backward()
    return gradients(model)


def fully_sharded_loss(own):
    """The model's own chunked loss as the method that gathers the weights."""
    model = sharded(model_of())
    register_fsdp_forward_method(model, "loss")
    model.loss(own[:, :-1].contiguous(), own[:, 1:].contiguous()).backward()
    return gradients(model)


def lower_precision(own):
    model = sharded(model_of(torch.float32), mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    loss_of(model(own).float(), own).backward()
    return gradients(model)


def from_meta(own):
    """A model that never was whole: made on meta, sharded, filled from the first rank's weights, trained for a step."""
    with torch.device("meta"):
        model = LongNetLM(**OPTIONS, dtype=torch.float64)
    model = sharded(model).to_empty(device="cpu")
    weights = model_of().state_dict() if dist.get_rank() == 0 else {}
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    loss_of(model(own), own).backward()
    optimizer.step()
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


CHECKS = {
    "DDP": data_parallel,
    "DDP with checkpointing": lambda own: data_parallel(own, checkpointing=True),
    "DDP under autocast": lambda own: data_parallel(own, dtype=torch.float32, autocast=True),
    "dropout": lambda own: data_parallel(own, dropout=0.2, attention_dropout=0.2),
    "dropout with checkpointing": lambda own: data_parallel(own, True, dropout=0.2, attention_dropout=0.2),
    "FSDP2": fully_sharded,
    "FSDP2, the model's loss": fully_sharded_loss,
    "FSDP2 in bfloat16": lower_precision,
    "FSDP2 from meta, after a step": from_meta,
}


def main(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=timedelta(minutes=9))
    own = tokens().chunk(RANKS)[rank]
    torch.save({name: check(own) for name, check in CHECKS.items()}, pathlib.Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
