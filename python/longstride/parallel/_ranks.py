"""Which processes share a sequence: a process group as the rest of this package takes it."""

import dataclasses
from typing import Any

import torch

from .._refusal import refuse

dist = torch.distributed


@dataclasses.dataclass(frozen=True)
class Ranks:
    """`size` processes, of which this one is number `rank`; `group` is None where it is alone."""

    group: Any
    size: int
    rank: int

    @property
    def name(self) -> str:
        return self.group.group_name

    def takes(self, device: torch.device) -> bool:
        """Whether the group moves tensors of such a device."""
        return any(d.type == device.type for d in self.group._device_types)

    def backends(self) -> str:
        return ", ".join(sorted(f"{d.type} by {self.group._get_backend(d).name()}" for d in self.group._device_types))

    @property
    def host(self) -> torch.device:
        """Where numbers that ranks compare travel: the CPU, or of a group that moves none there the current device."""
        return next((d for d in self.group._device_types if d.type == "cpu"), torch.device("cuda"))

    def text(self) -> str:
        return f"rank {self.rank} of {self.size}"


ALONE = Ranks(None, 1, 0)


def initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def by_name(name: str) -> Any:
    if initialized():
        try:
            return dist.distributed_c10d._resolve_process_group(name)
        except (RuntimeError, ValueError, TypeError):
            pass
    remedy = "initialise it first, or leave group unset for the default one"
    refuse("group", 'must be "none" or the name of a process group of this process', f"'{name}'", remedy)


def ranks_of(group: Any) -> Ranks:
    """Those of a group: itself, its name, or a device mesh of one dimension. None: the default group if one is
    initialised, else this process by itself, as "none" says always. Raises ValueError."""
    if group is None and not initialized() or group == "none":
        return ALONE
    if isinstance(group, str):
        group = by_name(group)
    elif group is None:
        group = dist.group.WORLD
    elif hasattr(group, "get_group"):
        group = group.get_group()
    if dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER:
        refuse("group", "must be one that this process is a member of", "another", "call it on the group's ranks alone")
    if not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        refuse("group", "must be a process group, its name or None", type(group).__name__)
    return Ranks(group, group.size(), group.rank())
