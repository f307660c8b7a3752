"""compat.transformers: models of transformers give what their own attention gives, padded, packed, cached, windowed."""

import definition
import pytest
import torch
import transformers
from support import close
from transformers_models import DECODERS, SERVED, ids_of, kept, model_of, output, padded

from longstride.compat.transformers import _documents, _masks, register

register()
LENGTH = 11


@pytest.fixture(autouse=True)
def no_grad(request):
    with torch.set_grad_enabled("gradients" in request.node.name):
        yield


@pytest.mark.parametrize("name", SERVED)
def test_logits_are_the_models(name):
    model, ids = kept(name), ids_of(3, LENGTH)
    close(output(model, "longstride", ids), output(model, "eager", ids))


@pytest.mark.parametrize("left", (False, True))
@pytest.mark.parametrize("name", SERVED)
def test_padded_rows_are_the_models(name, left):
    model, ids = kept(name), ids_of(4, LENGTH)
    mask = padded(4, LENGTH, [6, LENGTH, 1, 6], left)
    got, wanted = (output(model, one, ids, attention_mask=mask) for one in ("longstride", "eager"))
    close(got[mask == 1], wanted[mask == 1])


def test_a_row_that_is_padding_alone_is_zero_and_changes_no_other():
    model, ids = kept("Llama"), ids_of(3, LENGTH)
    mask = padded(3, LENGTH, [6, 0, LENGTH], True)
    got, wanted = output(model, "longstride", ids, attention_mask=mask), output(model, "longstride", ids[2:])
    assert got.isfinite().all()
    close(got[2:], wanted)


POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1], list(range(11)), [0, 1, 0, 1, 2, 3, 4, 5, 6, 0, 0]])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("use_cache", (False, True))
def test_packed_documents_are_what_they_are_alone(name, use_cache):
    model, ids = kept(name), ids_of(3, LENGTH)
    got = output(model, "longstride", ids, position_ids=POSITIONS, use_cache=use_cache)
    for row, positions in enumerate(POSITIONS):
        starts = [*(positions == 0).nonzero().flatten().tolist(), LENGTH]
        for begin, end in zip(starts, starts[1:]):
            close(got[row, begin:end], output(model, "eager", ids[row : row + 1, begin:end])[0])


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64))
def test_cu_seq_lens_say_the_documents(dtype):
    model, ids = kept("Llama"), ids_of(2, LENGTH)
    bounds = torch.tensor([0, 4, LENGTH, LENGTH + 7, 2 * LENGTH], dtype=dtype)
    packed = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds.clone(), "max_length_q": 7, "max_length_k": 7}
    got = output(model, "longstride", ids, position_ids=torch.arange(LENGTH)[None], **packed)
    close(got[0, :4], output(model, "eager", ids[:1, :4])[0])
    close(got[1, 7:], output(model, "eager", ids[1:, 7:], position_ids=torch.arange(7, LENGTH)[None])[0])


def generated(model, implementation, ids, mask, **options):
    model.set_attn_implementation(implementation)
    made = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=7,
        do_sample=False,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return made.sequences, torch.stack(made.logits, 1)


STATIC = {"cache_implementation": "static", "disable_compile": True}
CACHES = {"dynamic": {}, "static": STATIC, "none": {"use_cache": False}}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("lengths", ([5, 5, 5], [2, 5, 2]))
@pytest.mark.parametrize("name", DECODERS)
def test_generation_is_the_models(name, lengths, cache):
    model, ids, mask = kept(name), ids_of(3, 5), padded(3, 5, lengths, True)
    tokens, logits = generated(model, "longstride", ids, mask, **CACHES[cache])
    wanted_tokens, wanted = generated(model, "eager", ids, mask)
    assert torch.equal(tokens, wanted_tokens)
    close(logits, wanted, 1e-4)  # of four layers, whose products are summed in an order of the processor's own


DILATED = {"segment_lengths": [4, 16], "dilation_rates": [1, 2]}
PATTERNS = {
    "dilated": DILATED,
    "dilated with offsets": {**DILATED, "offsets": [0, 0, 1, 0]},
    "blocks": {"blocks": [{"pattern": "local_window", "block_size": 2, "window": 4}]},
    "both": {"dilated": DILATED, "blocks": [{"pattern": "sliding_window", "left": 0, "sink_tokens": 1}]},
}


def scores_mask(given, length, heads=4, kv_heads=2, causal=True):
    """ln of how often the pattern shows a pair, which transformers' eager attention adds to the scores."""
    pattern = {"causal": causal, **(given if given.keys() & {"dilated", "blocks"} else {"dilated": given})}
    of_heads = [h * kv_heads // heads for h in range(heads)]
    counts = [definition.counts(pattern, length, kv_head, kv_heads, 0, None, None)[0] for kv_head in of_heads]
    return torch.stack(counts)[None].log().float().clamp_min(-1e30)


@pytest.mark.parametrize("where", ("config", "register"))
@pytest.mark.parametrize("given", PATTERNS)
def test_logits_under_a_pattern_are_its_definition(given, where):
    length, given = 21, PATTERNS[given]
    ids = ids_of(2, length)
    wanted = output(kept("Llama"), "eager", ids, attention_mask=scores_mask(given, length))
    if where == "config":
        model = model_of("Llama", longstride=given)
    else:
        model = model_of("Llama", "sdpa")
        register("longstride_here", given)
        model.set_attn_implementation("longstride_here")
    close(model(ids).logits, wanted)
    assert (output(model, "sdpa", ids) - wanted).abs().max() > 1e-2  # the pattern hides something


@pytest.mark.parametrize("cache", ("dynamic", "static"))
def test_generation_under_a_pattern_is_that_of_each_row_alone_recomputed(cache):
    """Positions of a pattern count from a row's first token, wherever padding puts it."""
    model, ids, mask = model_of("Llama", longstride=DILATED), ids_of(3, 5), padded(3, 5, [2, 5, 4], True)
    tokens, logits = generated(model, "longstride", ids, mask, **CACHES[cache])
    for row, length in enumerate([2, 5, 4]):
        text = tokens[row : row + 1, 5 - length :]
        close(logits[row], model(text, use_cache=False).logits[0, length - 1 : -1])


def test_a_prompt_in_parts_is_the_whole_prompt():
    model, ids = model_of("Llama", longstride=DILATED), ids_of(2, 13)
    cache = transformers.DynamicCache(config=model.config)
    parts = [model(part, cache=cache).logits for part in ids.split([6, 4, 3], 1)]
    close(torch.cat(parts, 1), model(ids).logits)


@pytest.mark.parametrize("width", (None, 9, 24))
def test_a_static_cache_without_generate(width):
    """`width` of the masks: none, that of the tokens, that of the cache."""
    model, ids = kept("Llama"), ids_of(2, 9)
    cache = transformers.StaticCache(config=model.config, max_cache_len=24)
    model.set_attn_implementation("longstride")
    parts, done = [], 0
    for part in ids.split([6, 1, 2], 1):
        done += part.size(1)
        mask = {None: None, 9: padded(2, done, [done] * 2, False), 24: padded(2, 24, [done] * 2, False)}[width]
        parts.append(model(part, attention_mask=mask, cache=cache).logits)
    close(torch.cat(parts, 1), output(model, "eager", ids))


def test_full_attention_only_leaves_windows_to_layers_that_have_one():
    name, length = "Qwen2, a layer of two with a window", 21
    ids, window = ids_of(2, length), {"blocks": [{"pattern": "sliding_window", "left": 3}]}
    masks = {"full_attention": scores_mask(DILATED, length), "sliding_attention": scores_mask(window, length)}
    wanted = output(kept(name), "eager", ids, attention_mask=masks)
    model = model_of(name, longstride={**DILATED, "full_attention_only": True})
    close(model(ids).logits, wanted)
    register("longstride_here", DILATED, full_attention_only=True)
    close(output(model_of(name, "eager"), "longstride_here", ids), wanted)


@pytest.mark.parametrize("segment", (256, 2**40))
def test_one_segment_of_all_positions_is_dense_beside_a_window(segment):
    model, ids = model_of("Mistral", longstride={"segment_lengths": [segment], "dilation_rates": [1]}), ids_of(2, 21)
    close(model(ids).logits, output(kept("Mistral"), "eager", ids))


def test_a_pattern_in_a_model_that_is_not_causal():
    ids, length = ids_of(2, 21), 21
    wanted = output(kept("Bert"), "eager", ids, attention_mask=scores_mask(DILATED, length, kv_heads=4, causal=False))
    close(model_of("Bert", longstride=DILATED)(ids)[0], wanted)


@pytest.mark.parametrize("name", ("Llama", "Mistral", "GptOss", "Bert"))
@pytest.mark.parametrize("left", (False, True))
def test_gradients_are_the_models(name, left):
    ids, mask, grads = ids_of(3, LENGTH), padded(3, LENGTH, [6, LENGTH, 4], left), []
    for implementation in ("longstride", "eager"):
        model = model_of(name, implementation)
        out = model(ids, attention_mask=mask)[0][mask == 1]
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
        (out * weights).sum().backward()
        grads.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and (name != "GptOss" or "model.layers.0.self_attn.sinks" in grads[0])
    for key, wanted in grads[1].items():
        assert (grads[0][key] - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max()), key


def test_gradients_of_packed_rows_are_the_models():
    grads = []
    for implementation in ("longstride", "eager"):
        model = model_of("Mistral", implementation).train()
        options = {"position_ids": POSITIONS, "use_cache": False}
        model(ids_of(3, LENGTH), labels=ids_of(3, LENGTH), **options).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for got, wanted in zip(*grads):
        close(got, wanted)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", ("Llama", "GptOss"))
def test_half_precision(name, dtype):
    model, ids, mask = model_of(name).to(dtype), ids_of(2, LENGTH), padded(2, LENGTH, [6, LENGTH], True)
    exact = model_of(name, "eager").to(dtype).float()(ids, attention_mask=mask).logits[mask == 1]
    own = model_of(name, "eager").to(dtype)(ids, attention_mask=mask).logits[mask == 1].float()
    got = model(ids, attention_mask=mask).logits
    assert got.dtype == dtype
    # Routers of experts fall to the other side in some tokens, in the model's own attention too.
    error, models = ((one - exact).abs().mean() for one in (got[mask == 1].float(), own))
    assert error <= 1.5 * models


def test_dropout_is_the_modules_and_only_in_training():
    model, ids = model_of("Llama", attention_dropout=0.5), ids_of(2, LENGTH)
    wanted = model(ids).logits
    close(wanted, output(kept("Llama"), "eager", ids))
    model.train()
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(model(ids).logits)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert (made[0] - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("given", ("mask", "positions", "cu_seq_lens"))
def test_masks_and_positions_are_read_once_a_forward(given, monkeypatch):
    reads = []

    def counted(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *of: reads.append(name) or original(*of))

    counted(_masks, "read")
    counted(_documents, "read_positions")
    counted(_documents, "on_host")
    model, ids = kept("Llama"), ids_of(1, LENGTH)
    bounds = torch.tensor([0, 4, LENGTH])
    options = {
        "mask": {"attention_mask": padded(1, LENGTH, [6], True)},
        "positions": {"position_ids": POSITIONS[:1].clone()},
        "cu_seq_lens": {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 7, "max_length_k": 7},
    }[given]
    first = output(model, "longstride", ids, **options)
    # Positions of a text that is not packed are the model's own, and are looked at as well.
    assert len(reads) == 1
    if given == "positions":  # the same tensor with other numbers
        options["position_ids"].copy_(torch.arange(LENGTH))
        again = output(model, "longstride", ids, **options)
        close(again, output(model, "eager", ids))
        assert (again - first).abs().max() > 1e-2


def test_one_graph_for_all_lengths_with_padding_and_packed():
    torch._dynamo.reset()
    model = model_of("Mistral", num_hidden_layers=1)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=keep, fullgraph=True, dynamic=True)
    for length in (12, 17, 30):
        ids, mask = ids_of(2, length), padded(2, length, [length - 5, length], True)
        options = {"attention_mask": mask, "use_cache": False}
        keep_tokens = mask == 1
        close(compiled(ids, **options).logits[keep_tokens], model(ids, **options).logits[keep_tokens])
    assert len(graphs) == 1
    for length in (12, 17, 30):
        positions = torch.cat([torch.arange(5), torch.arange(length - 5)])[None]
        options = {"position_ids": positions, "use_cache": False}
        close(compiled(ids_of(2, length), **options).logits, model(ids_of(2, length), **options).logits)
    assert len(graphs) == 2
