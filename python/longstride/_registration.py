"""What torch wants to know of the two operators besides their kernels: shapes, gradients, autocast, refusals.

LibTorch's stable ABI, in which the kernels are, has no words for these; C++ users get them from src/op/autograd, which
this file follows. What a library loaded earlier has registered is left as it is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _library
from ._refusal import dtype as dtype_name
from ._refusal import refuse, sentence, shape

LIBRARY = torch.library.Library("longstride", "IMPL")
FORWARD = "longstride::attention"
BACKWARD = "longstride::attention_backward"
NOT_DENSE = [
    *("SparseCPU", "SparseCUDA", "SparseCsrCPU", "SparseCsrCUDA", "QuantizedCPU", "QuantizedCUDA"),
    *("NestedTensorCPU", "NestedTensorCUDA", "MkldnnCPU"),
]
LAYOUT_NAMES = {
    torch.sparse_coo: "Sparse",
    torch.sparse_csr: "SparseCsr",
    torch.sparse_csc: "SparseCsc",
    torch.sparse_bsr: "SparseBsr",
    torch.sparse_bsc: "SparseBsc",
}
# The operator's arguments that are tensors and may be left out, in order.
TENSORS = ("blocks", "gates", "alibi_slopes", "cu_seqlens", "lengths", "dropout_seed")
SLOPES = TENSORS.index("alibi_slopes")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


# Whether register() has registered the gradients, and not a library that was loaded earlier.
gradients_are_ours = False


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


# ---- shapes: asked by whoever traces a graph, and all that a meta tensor gets ----


def check(condition: bool, words: Callable[[], tuple]) -> None:
    """Refuses if a condition on sizes, which may be symbols, does not hold."""
    torch._check_value(condition, lambda: sentence(*words()))


def check_call(q: Tensor, k: Tensor, v: Tensor, tensors: dict[str, Tensor | None], settings: dict[str, Any]) -> None:
    """What of src/op/checks.h can be told from shapes; the kernel checks the pattern and all numbers."""
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dim() != 4:
            refuse(name, "must have the 4 dimensions [batch, len, heads, dim]", shape(t))
    if q.dtype not in DTYPES:
        refuse("q", "must be float32, bfloat16, float16 or float64", dtype_name(q.dtype), "convert it with .to()")
    for name, t in (("k", k), ("v", v)):
        if t.dtype != q.dtype:
            wanted = f"must have the dtype of q, {dtype_name(q.dtype)}"
            refuse(name, wanted, dtype_name(t.dtype), "convert one of them with .to()")
        if t.device != q.device:
            refuse(name, f"must be on the device of q, {q.device}", t.device, "move one of them with .to()")
    sizes = list(q.shape)
    for axis in range(4):
        check(k.size(axis) == v.size(axis), lambda: ("v", f"must have the shape of k, {list(k.shape)}", shape(v)))
    check(q.size(0) == k.size(0), lambda: ("k", f"must have the batch of q, {sizes}", shape(k)))
    check(q.size(3) == k.size(3), lambda: ("k", f"must have the dim of q, {sizes}", shape(k)))
    check(q.size(3) >= 1, lambda: ("q", "must have a dim of at least 1", shape(q)))
    check(q.size(2) >= 1, lambda: ("q", "must have at least one head", shape(q)))
    check(k.size(2) >= 1, lambda: ("k", "must have at least one head", shape(k)))
    check(
        q.size(2) % k.size(2) == 0,
        lambda: (
            "heads of q",
            f"must be a multiple of the heads of k and v, {k.size(2)}",
            q.size(2),
            "every KV head serves heads / kv_heads query heads",
        ),
    )
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.numel() > 0 and t.size(3) > 1:
            check(
                t.stride(3) == 1,
                lambda: (
                    name,
                    "must have its last dimension (dim) contiguous",
                    f"strides {list(t.stride())}",
                    f"no copy is made in silence: pass {name}.contiguous()",
                ),
            )
    check_lengths(q.size(0), q.size(1), k.size(1), tensors, settings["query_start"])
    check_slopes(q, tensors["alibi_slopes"])
    if settings["dropout_p"] > 0 and tensors["dropout_seed"] is None:
        refuse(
            "dropout_seed",
            "must be given when dropout_p > 0",
            "none",
            "draw one with draw_dropout_seed(device), or torch.randint(2**63 - 1, (), dtype=torch.int64)",
        )


def check_slopes(q: Tensor, slopes: Tensor | None) -> None:
    if slopes is None:
        return

    def words() -> tuple:
        wanted = f"must be Float with one entry a query head, {q.size(2)}"
        remedy = "cast it with .float(), repeat or cut it to the heads of q"
        return "alibi_slopes", wanted, f"{dtype_name(slopes.dtype)} of {shape(slopes)}", remedy

    if slopes.dtype != torch.float32 or slopes.dim() != 1:
        refuse(*words())
    check(slopes.size(0) == q.size(2), words)
    if slopes.device != q.device:
        refuse("alibi_slopes", f"must be on the device of q, {q.device}", slopes.device, "move it with .to()")


def refuse_gradients(tensors: Sequence[Tensor | None]) -> None:
    """Refuses a gradient of what gets none; `tensors` in the order of TENSORS."""
    slopes = tensors[SLOPES]
    if slopes is not None and slopes.requires_grad:
        wanted = "must not require a gradient: they get none"
        refuse("alibi_slopes", wanted, "slopes that require one", "pass slopes.detach()")


def check_lengths(batch, len_q, len_k, tensors: dict[str, Tensor | None], query_start) -> None:
    if query_start is None:
        check(
            len_q == len_k,
            lambda: (
                "len of q",
                f"must equal the len of k, {len_k}, when query_start is not given",
                len_q,
                "give query_start, the position of query 0 among the keys",
            ),
        )
    else:
        for fits in (query_start >= 0, query_start <= len_k - len_q):
            check(
                fits,
                lambda: (
                    "query_start",
                    f"must be in [0, len_k - len_q] with len_q {len_q} and len_k {len_k}",
                    query_start,
                    "every query stands at a position that has a key",
                ),
            )
    if tensors["cu_seqlens"] is not None and tensors["lengths"] is not None:
        refuse(
            "cu_seqlens and lengths",
            "must not be given together",
            "both",
            "lengths makes every batch row one document, cu_seqlens packs several into each",
        )
    for name in ("cu_seqlens", "lengths"):
        t = tensors[name]
        if t is not None and (t.dtype not in (torch.int32, torch.int64) or t.dim() != 1):
            refuse(name, "must be an int32 or int64 tensor of one dimension", f"{dtype_name(t.dtype)} of {shape(t)}")
    lengths = tensors["lengths"]
    if lengths is not None:
        check(
            lengths.size(0) == batch,
            lambda: ("lengths", f"must have one entry per batch row, {batch}", f"{lengths.size(0)} entries"),
        )


def lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def named(given: Sequence[Any], settings: dict[str, Any]) -> tuple[dict[str, Tensor | None], dict[str, Any]]:
    """The tensors of a call behind the pattern, and its settings, by their names in the schema."""
    tensors = dict(zip(TENSORS, [*given, *[None] * (len(TENSORS) - len(given))]))
    for name in TENSORS:
        tensors[name] = settings.get(name, tensors[name])
    return tensors, {"query_start": None, "dropout_p": 0.0, **settings}


def all_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Every setting of a call in the order of the schema, those that are not given at their defaults."""
    arguments = torch.ops.longstride.attention.default._schema.arguments
    return {a.name: given.get(a.name, a.default_value) for a in arguments if a.kwarg_only}


def forward_fake(q, k, v, pattern, *given, **settings):
    check_call(q, k, v, *named(given, settings))
    return q.new_empty(q.shape), q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=lse_dtype(q))


def backward_fake(d_out, d_lse, q, k, v, out, lse, pattern, *given, **settings):
    tensors, options = named(given, settings)
    check_call(q, k, v, tensors, options)
    gates = tensors["gates"]
    d_gates = lse.new_empty(0) if gates is None else gates.new_empty(gates.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), d_gates


# ---- gradients ----

GATES = 5  # their place among the operator's arguments


def save(ctx, inputs, keyword_only_inputs, output) -> None:
    """What the backward needs: q, k, v, both results and the call. It finds its plan by key; nothing else is kept."""
    q, k, v, pattern, *tensors = inputs
    refuse_gradients(tensors)
    ctx.save_for_backward(q, k, v, *output, *tensors)
    ctx.pattern = pattern
    ctx.settings = keyword_only_inputs
    # A gradient that nobody gives stays None: most calls use out alone, and lse costs nothing then.
    ctx.set_materialize_grads(False)


def backward(ctx, d_out: Tensor | None, d_lse: Tensor | None):
    return gradients(ctx, d_out, d_lse, torch.ops.longstride.attention_backward)


def gradients(ctx, d_out: Tensor | None, d_lse: Tensor | None, operator: Callable):
    needed = ctx.needs_input_grad  # of the arguments that the caller gave: the last ones may be missing
    if d_out is None and d_lse is None:
        return (None,) * len(needed)
    q, k, v, out, lse, blocks, gates, *others = ctx.saved_tensors
    if not any(needed[GATES : GATES + 1]):
        gates = None
    dq, dk, dv, d_gates = operator(
        torch.zeros_like(out) if d_out is None else d_out,
        d_lse, q, k, v, out, lse, ctx.pattern, blocks, gates, *others, **ctx.settings,
    )  # fmt: skip
    grads = (dq, dk, dv, None, None, None if gates is None else d_gates, None, None, None, None)
    return tuple(grad if need else None for grad, need in zip(grads, needed))


def refuse_second_derivative(ctx, *grads):
    """First derivatives taken with create_graph are right; what is refused is to differentiate them."""
    refuse(
        "attention",
        "can be differentiated once",
        "a second derivative",
        "for a double backward compute the attention with torch's own operators",
    )


# ---- autocast and what is no array ----


def autocast(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """q, k and v as torch casts those of scaled_dot_product_attention: float64 stays."""
    device = q.device.type
    dtype = torch.get_autocast_dtype(device)

    def cast(t: Tensor) -> Tensor:
        eligible = t.is_floating_point() and t.device.type == device and t.dtype != torch.float64
        return t.to(dtype) if eligible else t

    return [cast(t) for t in (q, k, v)]


def forward_autocast(q, k, v, *arguments, **settings):
    with torch.autocast(q.device.type, enabled=False):
        return torch.ops.longstride.attention(*autocast(q, k, v), *arguments, **settings)


def refuse_what_is_not_dense(names):
    def kernel(*arguments, **settings):
        for name, t in zip(names, arguments):
            if not isinstance(t, Tensor):
                continue
            if t.is_nested:
                refuse(name, "must be a dense tensor", "a nested one", "pack its rows into one and give cu_seqlens")
            if t.layout != torch.strided:
                layout = LAYOUT_NAMES.get(t.layout, "Mkldnn")
                refuse(name, "must be a dense tensor", f"one of layout {layout}", "call .to_dense()")
            if t.is_quantized:
                refuse(name, "must be a dense tensor", "a quantized one", "call .dequantize()")
        raise AssertionError("dense tensors of a dispatch key for those that are none")

    return kernel


def register() -> list[str]:
    """Registers what is missing, and says what that was; longstride/__init__.py calls it once."""
    global gradients_are_ours
    positional = [a.name for a in torch.ops.longstride.attention.default._schema.arguments if not a.kwarg_only]
    if positional != ["q", "k", "v", "pattern", *TENSORS] or not hasattr(torch.ops.longstride, "describe"):
        _library.fail(f"finds operators of another version of its own, attention({', '.join(positional)})", _library.ADVICE)
    added = []

    def add(name: str, key: str, how: Callable[[], object]) -> None:
        if not has_kernel(name, key):
            how()
            added.append(f"{name} {key}")

    add(FORWARD, "Meta", lambda: torch.library.register_fake(FORWARD, forward_fake, lib=LIBRARY))
    add(BACKWARD, "Meta", lambda: torch.library.register_fake(BACKWARD, backward_fake, lib=LIBRARY))
    add(FORWARD, "Autograd", lambda: torch.library.register_autograd(FORWARD, backward, setup_context=save, lib=LIBRARY))
    add(BACKWARD, "Autograd", lambda: torch.library.register_autograd(BACKWARD, refuse_second_derivative, lib=LIBRARY))
    from . import _transforms

    for name, of_vmap, op in (
        (FORWARD, _transforms.forward_mapped, torch.ops.longstride.attention),
        (BACKWARD, _transforms.backward_mapped, torch.ops.longstride.attention_backward),
    ):
        rule = functools.partial(of_vmap, op)
        add(name, "FuncTorchBatched", lambda: torch.library.register_vmap(name, rule, lib=LIBRARY))
    for key in ("AutocastCPU", "AutocastCUDA"):
        add(FORWARD, key, lambda: LIBRARY.impl("attention", forward_autocast, key))
    for op in (getattr(torch.ops.longstride, name).default for name in ("attention", "attention_backward", "describe")):
        kernel = refuse_what_is_not_dense([argument.name for argument in op._schema.arguments])
        for key in NOT_DENSE:
            add(op._schema.name, key, lambda: LIBRARY.impl(op, kernel, key))
    gradients_are_ours = f"{FORWARD} Autograd" in added
    return added
