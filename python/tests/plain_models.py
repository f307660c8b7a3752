"""docs/layers.md in plain torch, from weights by name and a config by key: what the modules are held against.

It knows nothing of the package; attention is that of definition.py.
"""

import math

import definition
import torch

ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: 1 - 2 / (torch.exp(2 * x) + 1),
}


def linear(weights, name, x):
    out = torch.einsum("...i,oi->...o", x, weights[f"{name}.weight"])
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def norm(weights, name, x, config):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    scaled = (x - mean) / (variance + config.get("layer_norm_eps", 1e-5)).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def positions(x, config, of_keys):
    """RoPE and xPos pair by pair: x [batch, len, heads, dim]."""
    kind = config.get("positions", "none")
    if kind in ("none", "alibi"):
        return x
    dim, n = x.size(3), torch.arange(x.size(1), dtype=torch.float64)
    out = torch.empty_like(x)
    base = config.get("xpos_scale_base") or max(512, config.get("max_len", 1 << 20) / 32)
    for c in range(dim // 2):
        angle = (n * config.get("rope_base", 10000.0) ** (-2 * c / dim))[:, None]
        zeta = (2 * c / dim + 0.4) / 1.4
        scale = (zeta ** ((-n if of_keys else n) / base))[:, None] if kind == "xpos" else 1
        even, odd = x[..., 2 * c], x[..., 2 * c + 1]
        out[..., 2 * c] = scale * (even * angle.cos() - odd * angle.sin())
        out[..., 2 * c + 1] = scale * (even * angle.sin() + odd * angle.cos())
    return out


def pattern_of(config, causal):
    names = ("segment_lengths", "dilation_rates", "head_offset", "mixing", "padding", "average", "offsets")
    groups = {name: config[name] for name in names if config.get(name) is not None}
    dilated = {"dilated": groups} if groups.get("segment_lengths") else {}
    return {"causal": causal, **dilated, "blocks": config.get("blocks", [])}


def multihead(weights, name, config, query, memory, causal, **call):
    heads, width = config["num_heads"], query.size(2)
    kv_heads, dim = config.get("kv_heads") or heads, width // heads
    if f"{name}.qkv_proj.weight" in weights:
        rows = (width, kv_heads * dim, kv_heads * dim)
        weights = dict(weights)
        for leaf in ("weight", "bias"):
            if f"{name}.qkv_proj.{leaf}" in weights:
                for part, of in zip("qkv", weights[f"{name}.qkv_proj.{leaf}"].split(rows)):
                    weights[f"{name}.{part}_proj.{leaf}"] = of
    q = linear(weights, f"{name}.q_proj", query).unflatten(2, (heads, dim))
    k = linear(weights, f"{name}.k_proj", memory).unflatten(2, (kv_heads, dim))
    v = linear(weights, f"{name}.v_proj", memory).unflatten(2, (kv_heads, dim))
    if config.get("qk_norm"):
        q, k = norm(weights, f"{name}.q_norm", q, config), norm(weights, f"{name}.k_norm", k, config)
    q, k = positions(q, config, False), positions(k, config, True)
    scale = config.get("softmax_scale")
    if config.get("positions") == "alibi":  # for powers of 2
        call = {**call, "alibi_slopes": 2.0 ** (-8 / heads * torch.arange(1, heads + 1))}
    out, lse = definition.attention(q, k, v, pattern_of(config, causal), scale=scale, **call)
    if f"{name}.sinks" in weights:  # e^sink more in every denominator
        weight = lse.exp()
        out = out * (weight / (weight + weights[f"{name}.sinks"].exp()[:, None])).transpose(1, 2)[..., None]
    out = out.flatten(2)
    if config.get("sub_layer_norm", True):
        out = norm(weights, f"{name}.inner_norm", out, config)
    return linear(weights, f"{name}.out_proj", out)


def feed_forward(weights, name, config, x):
    h = ACTIVATIONS[config.get("activation", "relu")](linear(weights, f"{name}.fc1", x))
    if config.get("sub_layer_norm", True):
        h = norm(weights, f"{name}.inner_norm", h, config)
    return linear(weights, f"{name}.fc2", h)


def layer(weights, name, config, x, memory=None, causal=None, memory_causal=None, **call):
    """An encoder layer, or with a memory a decoder layer; `name` ends in a dot, or is empty."""
    causal = config.get("causal", False) if causal is None else causal
    y = norm(weights, f"{name}attention_norm", x, config)
    x = x + multihead(weights, f"{name}attention", config, y, y, causal, **call)
    if memory is not None:
        memory_causal = config.get("memory_causal", False) if memory_causal is None else memory_causal
        y = norm(weights, f"{name}memory_norm", x, config)
        x = x + multihead(weights, f"{name}memory_attention", config, y, memory, memory_causal, **call)
    return x + feed_forward(weights, f"{name}feed_forward", config, norm(weights, f"{name}feed_forward_norm", x, config))


def longnet(weights, config, source, target=None, **call):
    form = config.get("form", "encoder_decoder")
    config = {**config, "num_heads": config["nhead"]}
    memory, x = None, source
    if form != "decoder":
        for i in range(config["num_encoder_layers"]):
            x = layer(weights, f"encoder_layers.{i}.", config, x, causal=config.get("encoder_causal", False), **call)
        memory = norm(weights, "encoder_norm", x, config)
        if form == "encoder":
            return memory
    x = source if target is None else target
    causal = {"causal": config.get("decoder_causal", True), "memory_causal": config.get("memory_causal", False)}
    for i in range(config["num_decoder_layers"]):
        x = layer(weights, f"decoder_layers.{i}.", config, x, memory, **causal, **call)
    return norm(weights, "decoder_norm", x, config)


def language_model(weights, config, tokens, **call):
    config = {"positions": "rope", "activation": "gelu", **config, "num_heads": config["heads"]}
    x = weights["embedding.weight"][tokens] * math.sqrt(config["dim"])
    for i in range(config["layers"]):
        x = layer(weights, f"layers.{i}.", config, x, causal=True, **call)
    head = weights.get("head.weight", weights["embedding.weight"])
    return norm(weights, "final_norm", x, config) @ head.T
