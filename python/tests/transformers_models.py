"""Small models of transformers, made of configs, with weights large enough that a wrong key shows in the logits."""

import functools
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
# (config's and model's class, options). Windows are shorter than the tests' texts.
MODELS = {
    "Llama": ("Llama", "ForCausalLM", GROUPED),
    "Qwen2, a layer of two with a window": ("Qwen2", "ForCausalLM", {**GROUPED, **WINDOWS}),
    "Qwen3": ("Qwen3", "ForCausalLM", {**GROUPED, "head_dim": 24}),
    "Qwen2Moe, whose layers are not told their window": (
        "Qwen2Moe",
        "ForCausalLM",
        {**GROUPED, **WINDOWS, **EXPERTS, "num_experts": 4},
    ),
    "Mistral": ("Mistral", "ForCausalLM", {**GROUPED, "sliding_window": 4}),
    "GptOss": (
        "GptOss",
        "ForCausalLM",
        {**GROUPED, "sliding_window": 4, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Gemma2": ("Gemma2", "ForCausalLM", {**GROUPED, "head_dim": 16}),  # has what is refused
    "Bart": (  # is refused
        "Bart",
        "Model",
        {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "Bert": ("Bert", "Model", {}),
    "ModernBert": (
        "ModernBert",
        "Model",
        {"local_attention": 6, "layer_types": ["full_attention", "sliding_attention"]},
    ),
}
SERVED = [name for name in MODELS if name not in ("Gemma2", "Bart")]
DECODERS = [name for name in SERVED if MODELS[name][1] == "ForCausalLM"]


def model_of(name, implementation="longstride", **options):
    family, kind, own = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **own, **options})
    torch.manual_seed(5)
    return getattr(transformers, family + kind)._from_config(config, attn_implementation=implementation).eval()


@functools.cache
def kept(name):
    """A model that no test changes."""
    return model_of(name, "eager")


def ids_of(batch, length, seed=3):
    return torch.randint(3, 64, (batch, length), generator=torch.Generator().manual_seed(seed))


def output(model, implementation, *arguments, **options):
    """Logits, or hidden states, by one implementation."""
    model.set_attn_implementation(implementation)
    return model(*arguments, **options)[0]


def padded(batch, length, lengths, left):
    place = torch.arange(length)
    count = torch.tensor(lengths)[:, None]
    return (place >= length - count if left else place < count).long()
