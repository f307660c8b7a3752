"""Bad input is a ValueError in the library's words, before any work, on every way to the operator."""

import pytest
import torch
from support import inputs

import longstride as ls

DENSE = ls.Pattern.dilated([1 << 20], [1], causal=True)
LIST = ls.Pattern.block_sparse("list", 8)


def calls():
    q, k, v = inputs()
    rows = torch.tensor([[-1, -1, 0, 0]], dtype=torch.int32)
    slopes = torch.tensor([0.5, 0.25, 0.125, -0.1])
    learned = torch.nn.Parameter(slopes.clone())
    strided = v.transpose(2, 3).contiguous().transpose(2, 3)
    return {
        "3 dimensions": (lambda a: a(q, k[0], v, DENSE), r"^k must have the 4 dimensions.*got shape \[24, 2, 8\]"),
        "dtype": (lambda a: a(q.long(), k.long(), v.long(), DENSE), "^q must be float32, bfloat16.*got Long; convert"),
        "dtypes": (lambda a: a(q, k, v.double(), DENSE), "^v must have the dtype of q, Float, got Double"),
        "devices": (lambda a: a(q, k.to("meta"), v, DENSE), "^k must be on the device of q, cpu, got meta"),
        "shapes": (lambda a: a(q, k, v[:, :5], DENSE), r"^v must have the shape of k, \[2, 24, 2, 8\], got shape"),
        "batch": (lambda a: a(q[:1], k, v, DENSE), "^k must have the batch of q"),
        "dim": (lambda a: a(q[..., :4].contiguous(), k, v, DENSE), "^k must have the dim of q"),
        "heads": (lambda a: a(q[:, :, :3], k, v, DENSE), "^heads of q must be a multiple.*got 3"),
        "no heads": (lambda a: a(q, k[:, :, :0], v[:, :, :0], DENSE), "^k must have at least one head"),
        "layout": (lambda a: a(q, k, strided, DENSE), r"^v must have its last dimension.*pass v.contiguous\(\)"),
        "lengths of q": (lambda a: a(q[:, :3], k, v, DENSE), "^len of q must equal the len of k, 24.*got 3"),
        "query_start": (lambda a: a(q, k, v, DENSE, query_start=1), r"^query_start must be in \[0.*got 1"),
        "both": (lambda a: a(q, k, v, DENSE, lengths=[1, 2], cu_seqlens=[0, 24]), "must not be given together"),
        "row lengths": (lambda a: a(q, k, v, DENSE, lengths=[1, 2, 3]), "^lengths must have one entry per batch row, 2"),
        "kind of lengths": (lambda a: a(q, k, v, DENSE, lengths=[1.5, 2]), "^lengths must be an int32 or int64 tensor"),
        "kind of slopes": (lambda a: a(q, k, v, DENSE, alibi_slopes=slopes.double()), "^alibi_slopes must be Float with one"),
        "number of slopes": (lambda a: a(q, k, v, DENSE, alibi_slopes=slopes[:2]), r"a query head, 4, got Float of shape \[2\]"),
        "device of slopes": (lambda a: a(q, k, v, DENSE, alibi_slopes=slopes.to("meta")), "^alibi_slopes must be on the device"),
        "slopes' gradient": (lambda a: a(q, k, v, DENSE, alibi_slopes=learned), "^alibi_slopes must not require a gradient"),
        "seed": (lambda a: a(q, k, v, DENSE, dropout_p=0.5), "^dropout_seed must be given when dropout_p > 0"),
        # These need numbers, which only a run has.
        "run: documents": (lambda a: a(q, k, v, DENSE, cu_seqlens=[0, 9, 7, 24]), r"^cu_seqlens\[2\] must be at least"),
        "run: end": (lambda a: a(q, k, v, DENSE, cu_seqlens=[0, 9]), r"^cu_seqlens\[1\] must be len_k \(24\), got 9"),
        "run: empty": (lambda a: a(q, k, v, DENSE, cu_seqlens=[]), "^cu_seqlens must have at least its first entry"),
        "run: length": (lambda a: a(q, k, v, DENSE, lengths=[24, 25]), r"^lengths\[1\] must be in \[0, len_k\]"),
        "run: dropout_p": (lambda a: a(q, k, v, DENSE, dropout_p=1.0, dropout_seed=torch.tensor(1)), r"in \[0, 1\)"),
        "run: NaN": (lambda a: a(q, k, v, DENSE, dropout_p=float("nan")), r"^dropout_p must be in \[0, 1\)"),
        "run: scale": (lambda a: a(q, k, v, DENSE, scale=float("inf")), "^scale must be finite"),
        "run: slopes": (lambda a: a(q, k, v, DENSE, alibi_slopes=slopes / 0), "^alibi_slopes must be finite, got inf for head 0"),
        "run: seed": (lambda a: a(q, k, v, DENSE, dropout_seed=torch.tensor(1.0)), "^dropout_seed must be one int64"),
        "run: no list": (lambda a: a(q, k, v, DENSE, blocks=rows), 'must have a "list" without blocks'),
        "run: no blocks": (lambda a: a(q, k, v, LIST), r"blocks\[0\].blocks must be given"),
        "run: blocks": (lambda a: a(q, k, v, LIST, blocks=rows.long()), r"^blocks must be int32 \[rows, 4\]"),
        "run: gates": (lambda a: a(q, k, v, LIST, blocks=rows, gates=torch.ones(2)), "^gates must be Float"),
        "run: values": (lambda a: a(q, k, v, LIST, blocks=rows, gates=torch.zeros(1)), "^gates must all be 1"),
        "run: pattern": (lambda a: a(q, k, v, "{}"), 'must have "dilated" groups or "blocks"'),
        "run: kind of pattern": (lambda a: a(q, k, v, {}), "^pattern must be a Pattern or its JSON text, got dict"),
    }  # fmt: skip


@pytest.mark.parametrize("mode", (torch.enable_grad, torch.no_grad, torch.inference_mode))
@pytest.mark.parametrize("name", calls())
def test_what_is_refused(name, mode):
    call, words = calls()[name]
    with mode(), pytest.raises(ValueError, match=words):
        call(ls.attention)


@pytest.mark.parametrize("name", [name for name in calls() if not name.startswith("run: ") and "device" not in name])
def test_meta_tensors_get_the_same(name):
    call, words = calls()[name]

    def on_meta(q, k, v, pattern, **options):
        return ls.attention(q.to("meta"), k.to("meta"), v.to("meta"), pattern, **options)

    with pytest.raises(ValueError, match=words):
        call(on_meta)


@pytest.mark.parametrize("mode", (torch.enable_grad, torch.no_grad, torch.inference_mode))
@pytest.mark.parametrize("grad", (False, True))
def test_what_is_no_array_is_refused(mode, grad):
    def freed(t):
        t = t.clone()
        t.untyped_storage().resize_(0)
        return t

    for make, words in (
        (freed, "^v must have its memory, 3072 bytes, got 0 bytes"),
        (lambda t: t.to_sparse(), "^v must be a dense tensor, got one of layout Sparse; call .to_dense"),
        (lambda t: t[0, :, 0].to_sparse_csr(), "^v must be a dense tensor, got one of layout SparseCsr"),
        (lambda t: torch.nested.nested_tensor(list(t.unbind())), "^v must be a dense tensor, got a nested one; pack"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 8, torch.quint8), "^v must be a dense tensor, got a quantized"),
        (lambda t: t.to_mkldnn(), "^v must be a dense tensor, got one of layout Mkldnn"),
    ):
        with mode():
            q, k, v = inputs()
            q.requires_grad_(grad)
            for attention in (lambda *t: ls.attention(*t, DENSE), lambda *t: torch.ops.longstride.attention(*t, DENSE.json())):
                with pytest.raises(ValueError, match=words):
                    attention(q, k, make(v))


def test_the_process_goes_on_after_a_refusal():
    q, k, v = inputs()
    before = ls.attention(q, k, v, DENSE)
    with pytest.raises(ValueError):
        ls.attention(q, k, v, DENSE, lengths=[1, 99])
    assert torch.equal(before, ls.attention(q, k, v, DENSE))


def test_backward_is_checked_too():
    q, k, v = inputs()
    out, lse = ls.attention(q, k, v, DENSE, return_lse=True)
    for d_out, wrong_lse, words in ((out[:1], lse, "^d_out must have the shape"), (out, lse.double(), "^lse must be Float")):
        with pytest.raises(ValueError, match=words):
            torch.ops.longstride.attention_backward(d_out, None, q, k, v, out, wrong_lse, DENSE.json())
