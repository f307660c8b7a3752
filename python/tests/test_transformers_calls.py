"""compat.transformers: what is refused, register() and unregister(), and calls that no small model makes."""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from support import close
from transformers import masking_utils
from transformers_models import ids_of, kept, model_of, output, padded

from longstride import Pattern
from longstride.compat.transformers import register, unregister

register()
DILATED = {"segment_lengths": [4, 16], "dilation_rates": [1, 2]}
LENGTH = 9


def run(name="Llama", positions=None, **options):
    given = options.pop("longstride", None)
    model = kept(name) if given is None else model_of(name, longstride=given)
    return output(model, "longstride", ids_of(2, LENGTH), position_ids=positions, **options)


def cached(mask_of_prompt, mask):
    model, cache = kept("Llama"), transformers.DynamicCache()
    output(model, "longstride", ids_of(2, LENGTH), attention_mask=mask_of_prompt, cache=cache)
    return output(model, "longstride", ids_of(2, 1), attention_mask=mask, cache=cache)


ONES = torch.ones(2, LENGTH, dtype=torch.long)
HOLE = ONES.clone()
HOLE[1, 4:6] = 0
RIGHT = padded(2, LENGTH, [5, LENGTH], False)
BOUNDS = torch.tensor([0, 4, 2 * LENGTH])
REFUSED = {
    "a mask of scores": (
        lambda: run(attention_mask=torch.zeros(2, 1, LENGTH, LENGTH)),
        r"attention_mask must be None or the mask of padding .*, got Float of shape \[2, 1, 9, 9\]; use another",
    ),
    "a mask of pairs": (
        lambda: run(attention_mask=torch.ones(2, 1, LENGTH, LENGTH, dtype=torch.bool)),
        r"attention_mask must be None or the mask of padding .*, got Bool of shape \[2, 1, 9, 9\]",
    ),
    "padding between tokens": (
        lambda: run(attention_mask=HOLE),
        "attention_mask must mark padding at the ends of rows alone, got 2 of it between tokens of row 1; pad prompts",
    ),
    "decoding behind padding": (
        lambda: cached(RIGHT, torch.cat([RIGHT, ONES[:, :1]], 1)),
        "attention_mask must mark padding at the ends of rows alone, got 4 of it between tokens of row 0",
    ),
    "a mask without the cache's tokens": (
        lambda: cached(None, ONES),
        r"attention_mask must have a column for each of 10 tokens, those in the cache too, got shape \[2, 9\]",
    ),
    "a mask of other rows": (
        lambda: run(attention_mask=padded(3, LENGTH, [5, 6, 7], True)),
        r"attention_mask must be \[2, keys\] with 9 to 9 keys, got shape \[3, 9\]",
    ),
    "attention weights": (
        lambda: run(output_attentions=True),
        "output_attentions must be None, as longstride has no attention weights as an output, got True; use another",
    ),
    "what it does not know": (
        lambda: run(tree=torch.ones(3)),
        r"tree must be None, as longstride does not know what it does, got shape \[3\]",
    ),
    "a cap of scores": (
        lambda: model_of("Gemma2")(ids_of(2, LENGTH)),
        "softcap must be None, as longstride has no cap of scores, got 50.0",
    ),
    "a pattern beside a window": (
        lambda: run("Mistral", longstride=DILATED),
        "pattern must be dense in a layer with a sliding window.*beside sliding_window 4; set config.sliding_window",
    ),
    "a segment shorter than texts beside a window": (
        lambda: run("Mistral", longstride={"segment_lengths": [255], "dilation_rates": [1]}),
        "pattern must be dense in a layer with a sliding window",
    ),
    "a causal pattern in a model that is not": (
        lambda: run("Bert", longstride={**DILATED, "causal": True}),
        "causal of the pattern must not be True in a model that is not causal, got True; leave causal out",
    ),
    "an unknown field": (
        lambda: run(longstride={**DILATED, "ofsets": [0]}),
        "ofsets.*offsets",
    ),
    "a pattern that is no JSON": (
        lambda: run(longstride=Pattern.dilated([4], [1])),
        r"config.longstride must be a dict or a text, .*, got a Pattern; give json.loads\(pattern.json\(\)\)",
    ),
    "a pattern of another type": (
        lambda: run(longstride=4),
        "config.longstride must be a dict such as .*, got int",
    ),
    "full_attention_only": (
        lambda: run(longstride={**DILATED, "full_attention_only": 1}),
        "config.longstride.full_attention_only must be True or False, got 1",
    ),
    "positions that go back": (
        lambda: run(positions=torch.tensor([[0, 1, 2, 3, 2, 3, 4, 5, 6]])),
        "position_ids must grow in a row, or start again at 0, got positions that do neither; give cu_seq_lens_q",
    ),
    "other documents of keys": (
        lambda: run(cu_seq_lens_q=BOUNDS, cu_seq_lens_k=BOUNDS + 1),
        "cu_seq_lens_k must be equal to cu_seq_lens_q, got others",
    ),
    "documents of keys alone": (lambda: run(cu_seq_lens_k=BOUNDS), "cu_seq_lens_q must be given with cu_seq_lens_k"),
    "documents that do not end with the rows": (lambda: run(cu_seq_lens_q=BOUNDS[:2]), "cu_seqlens.*18"),
    "an encoder and a decoder": (
        lambda: model_of("Bart")(ids_of(2, LENGTH)),
        "keys must be those of the queries' own sequence .*, got a model with cross-attention",
    ),
    "attention to another sequence": (
        lambda: model_of("Bert", is_decoder=True, add_cross_attention=True)(
            ids_of(2, LENGTH), encoder_hidden_states=torch.zeros(2, LENGTH, 64)
        ),
        "keys must be those of the queries' own sequence .*, got a model with cross-attention",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, words = REFUSED[what]
    with pytest.raises(ValueError, match=words), torch.no_grad():
        call()


def made_mask(make, **options):
    config = transformers.LlamaConfig(attention_chunk_size=4)
    config._attn_implementation = "longstride"
    embeds = torch.zeros(2, LENGTH, 8)
    return make(config=config, inputs_embeds=embeds, attention_mask=None, cache=None, **options)


def test_masks_that_are_refused():
    for name in ("or_mask_function", "and_mask_function"):
        with pytest.raises(ValueError, match="the model's mask must hide nothing but .*, got an or_mask_function or"):
            made_mask(masking_utils.create_causal_mask, **{name: lambda row, head, query, key: query >= key})
    blocks = torch.tensor([[-1, -1, 0, 0, 0, -1, -1, -1, -1]]).expand(2, -1)
    with pytest.raises(ValueError, match="the model's mask must hide nothing but .*, got blocks of tokens that see"):
        made_mask(masking_utils.create_causal_mask, block_sequence_ids=blocks)
    with pytest.raises(ValueError, match="the model's mask must hide nothing but .*, got chunks of 4 tokens and 9"):
        made_mask(masking_utils.create_chunked_causal_mask)


def test_chunks_longer_than_the_text_hide_nothing():
    config = transformers.LlamaConfig(attention_chunk_size=LENGTH)
    config._attn_implementation = "longstride"
    mask = padded(2, LENGTH, [5, LENGTH], True)
    for given, wanted in ((None, None), (mask, mask.bool())):
        made = masking_utils.create_chunked_causal_mask(config, torch.zeros(2, LENGTH, 8), given, None)
        assert made is None if wanted is None else torch.equal(made, wanted)


def attention(module=None, name="longstride", heads=4, kv_heads=2, length=7, dim=8, value_dim=8, **options):
    """(query, key, value, output) of one call as a layer makes it."""
    generator = torch.Generator().manual_seed(2)

    def one(rows, width):
        return torch.randn(2, rows, length, width, generator=generator, dtype=torch.float64)

    inputs = one(heads, dim), one(kv_heads, dim), one(kv_heads, value_dim)
    module = module or SimpleNamespace(is_causal=True, config=SimpleNamespace())
    return *inputs, transformers.AttentionInterface()[name](module, *inputs, None, **options)[0]


def scores(query, key, scaling=8**-0.5):
    length = query.size(2)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    return (query @ key.repeat_interleave(2, 1).mT * scaling).masked_fill(hidden, -torch.inf)


def test_a_sink_is_a_key_without_a_value():
    sink = torch.tensor([-3.0, 0.0, 0.5, 40.0], dtype=torch.float64, requires_grad=True)
    query, key, value, out = attention(s_aux=sink)
    with_sink = torch.cat([scores(query, key), sink.view(1, -1, 1, 1).expand(2, -1, 7, 1)], 3)
    wanted = (with_sink.softmax(3)[..., :-1] @ value.repeat_interleave(2, 1)).transpose(1, 2)
    close(out, wanted, 1e-12)
    weights = torch.arange(out.numel(), dtype=torch.float64).view(out.shape).sin()
    grads = [torch.autograd.grad((one * weights).sum(), sink, retain_graph=True)[0] for one in (out, wanted)]
    close(*grads, 1e-12)


def test_values_of_a_smaller_dim_and_another_scale():
    query, key, value, out = attention(value_dim=5, scaling=0.3)
    assert out.shape == (2, 7, 4, 5)
    close(out, (scores(query, key, 0.3).softmax(3) @ value.repeat_interleave(2, 1)).transpose(1, 2), 1e-12)


@pytest.mark.parametrize("window, sees", ((1, 1), (3, 5)))
def test_a_window_looks_both_ways_where_attention_does(window, sees):
    module = SimpleNamespace(is_causal=False, config=SimpleNamespace())
    query, key, value, out = attention(module, length=21, sliding_window=window)
    near = (torch.arange(21)[:, None] - torch.arange(21)).abs() < window
    assert near[10].sum() == sees
    weights = (query @ key.repeat_interleave(2, 1).mT * 8**-0.5).masked_fill(~near, -torch.inf).softmax(3)
    close(out, (weights @ value.repeat_interleave(2, 1)).transpose(1, 2), 1e-12)


def test_the_call_says_whether_it_is_causal():
    module = SimpleNamespace(is_causal=False, config=SimpleNamespace())
    assert torch.equal(attention(module, is_causal=True)[-1], attention()[-1])
    assert not torch.equal(attention(module)[-1], attention()[-1])


def test_register_again_sets_another_pattern():
    as_text, as_dict = Pattern.dilated([4], [1], causal=True).json(), {"segment_lengths": [4], "dilation_rates": [1]}
    forms = (None, Pattern.dilated([4], [1]), as_text, as_dict)
    made = []
    for pattern in forms:
        register("longstride_again", pattern)
        made.append(attention(name="longstride_again")[-1])
    assert not torch.equal(made[0], made[1])
    assert torch.equal(made[1], made[2]) and torch.equal(made[1], made[3])
    dense = SimpleNamespace(is_causal=True, config=SimpleNamespace(longstride={}))  # the config says: no pattern
    assert torch.equal(attention(dense, "longstride_again")[-1], made[0])


def test_unregister_takes_the_name_away():
    register("longstride_gone")
    assert "longstride_gone" in transformers.AttentionInterface()
    assert "longstride_gone" in masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    unregister("longstride_gone")
    assert "longstride_gone" not in transformers.AttentionInterface()
    assert "longstride_gone" not in masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    with pytest.raises(ValueError, match="name must be one that register.. has registered, got 'longstride_gone'"):
        unregister("longstride_gone")


@pytest.mark.parametrize("name", ("", 3, "sdpa", "eager", "flash_longstride", "our/longstride", "paged|longstride"))
def test_names_that_are_refused(name):
    with pytest.raises(ValueError, match="^name must"):
        register(name)


def test_a_name_of_another_implementation_is_refused():
    transformers.AttentionInterface.register("someone", lambda *of, **options: None)
    with pytest.raises(ValueError, match="name must not be another implementation's, got 'someone'"):
        register("someone")


def test_the_pattern_is_saved_with_the_config(tmp_path):
    given = {**json.loads(Pattern.dilated([4, 16], [1, 2]).json())}
    model = model_of("Llama", longstride=given)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="longstride")
    ids = ids_of(2, 21)
    assert again.config.longstride == given
    close(again(ids).logits, model(ids).logits)
