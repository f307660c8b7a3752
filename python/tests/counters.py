"""What tests of ranks count while a scope is open: bytes that are sent, bytes that are held."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longstride.parallel import _exchange


class Counted:
    """Counts what goes through the exchange while it is there: bytes that a rank sends to others, call by call."""

    def __enter__(self):
        self.calls = []
        self.module, self.real = _exchange.Posted, _exchange.Posted.__init__

        def counting(posted, what, ranks, message, sent, received):
            self.real(posted, what, ranks, message, sent, received)
            of_row = message[:1].numel() * message.element_size() if message.size(0) else 0
            self.calls.append((what, (sum(sent) - sent[ranks.rank]) * of_row, sent[ranks.rank]))

        self.module.__init__ = counting
        return self.calls

    def __exit__(self, *_):
        self.module.__init__ = self.real


class Held(TorchDispatchMode):
    """The most bytes of results of operators that are there at a time, forward and backward."""

    def __init__(self):
        super().__init__()
        self.tensors, self.bytes, self.most = Counter(), 0, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        results = operator(*args, **(kwargs or {}))
        for t in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(t, torch.Tensor) and t.untyped_storage().nbytes() > 0:
                of = t.untyped_storage()
                self.add(of.data_ptr(), of.nbytes(), 1)
                weakref.finalize(t, self.add, of.data_ptr(), of.nbytes(), -1)
        return results

    def add(self, where, size, tensors):
        there = self.tensors[where] > 0
        self.tensors[where] += tensors
        self.bytes += size * ((self.tensors[where] > 0) - there)
        self.most = max(self.most, self.bytes)
