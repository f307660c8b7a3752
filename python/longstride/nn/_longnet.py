"""LongNet over embeddings: an encoder, a decoder, or both. The options and parameters' names of the C++ module."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._attention import Lengths
from .._pattern import Pattern
from .._refusal import refuse, shape
from ..parallel._shards import Boundaries
from ._checks import attention_dtype, check_input, require_gain, require_positive
from ._config import flat, refuse_unknown, require_alone, require_types
from ._layers import DilatedTransformerDecoderLayer, TransformerLayer, layers_of, run_layers

FORMS = ("encoder", "decoder", "encoder_decoder")


class LongNet(nn.Module):
    """LongNet (Ding et al., arXiv 2307.02486) of MAGNETO layers (Wang et al., arXiv 2210.06423), over embeddings.

    The constructor takes the keys of the C++ module's config.json, and the parameters have its names. The defaults are
    the paper's base model. Encoder and decoder each end in a LayerNorm.

    Args:
        form: "encoder": num_encoder_layers of `TransformerLayer`; "decoder": num_decoder_layers of them;
            "encoder_decoder": an encoder, and a decoder of `DilatedTransformerDecoderLayer` that attends to it.
        num_encoder_layers, num_decoder_layers: looked at in the forms that have them.
        d_model, nhead: width, a multiple of nhead.
        segment_lengths, dilation_rates, dim_feedforward, dropout, activation, layer_options: as in `TransformerLayer`,
            of all layers, but for `causal`, `gamma_init` and `learned`: each stack has its own.
        encoder_causal, decoder_causal, memory_causal: of the encoder, of the decoder, of cross-attention. The switch of
            a part that a form lacks must have its default.
        encoder_gamma_init, decoder_gamma_init: Xavier gains; 0: MAGNETO's (its Figure 2), with N encoder and M decoder
            layers sqrt(ln(3M) ln(2N) / 3) and sqrt(ln(3M)), alone sqrt(ln(2N)) and sqrt(ln(2M)).
        max_len: longest input, in tokens.
        activation_checkpointing: keeps one input a layer and runs the layer again in the backward. The attribute may be
            switched at any time.
        pattern: of all layers, a `Pattern` in place of the options that say one; its causal must be False, and is then
            that of each part.
    Raises:
        ValueError: what `TransformerLayer` refuses; options of a part that the form lacks.
    """

    def __init__(
        self,
        form: str = "encoder_decoder",
        num_encoder_layers: int = 12,
        num_decoder_layers: int = 12,
        d_model: int = 768,
        nhead: int = 12,
        segment_lengths: Sequence[int] = (2048, 4096, 8192, 16384, 32768),
        dilation_rates: Sequence[int] = (1, 2, 4, 6, 12),
        *,
        dim_feedforward: int = 3072,
        dropout: float = 0.0,
        activation: str = "relu",
        encoder_causal: bool = False,
        decoder_causal: bool = True,
        memory_causal: bool = False,
        encoder_gamma_init: float = 0.0,
        decoder_gamma_init: float = 0.0,
        max_len: int = 1 << 20,
        activation_checkpointing: bool = False,
        pattern: Pattern | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **layer_options: Any,
    ):
        super().__init__()
        given = dict(locals())
        require_types(LongNet, given)
        check_config(given)
        self.form, self.max_len, self.activation_checkpointing = form, max_len, activation_checkpointing
        self.sizes = {name: given[name] for name in ("num_encoder_layers", "num_decoder_layers", "d_model", "nhead")}
        self.gains = {name: given[name] for name in ("encoder_gamma_init", "decoder_gamma_init")}
        self.causal = {name: given[name] for name in ("encoder_causal", "decoder_causal", "memory_causal")}
        layer: dict[str, Any] = {
            "embed_dim": d_model, "num_heads": nhead, "segment_lengths": segment_lengths,
            "dilation_rates": dilation_rates, "dim_feedforward": dim_feedforward, "dropout": dropout,
            "activation": activation, "max_len": max_len,
        }  # fmt: skip
        if pattern is not None:
            require_alone(pattern, LongNet, {**given, **layer_options})
            layer.update(flat(pattern))
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        shared = {**layer_options, **made}
        self.encoder_layers: nn.ModuleList | None = None
        self.encoder_norm: nn.LayerNorm | None = None
        self.decoder_layers: nn.ModuleList | None = None
        self.decoder_norm: nn.LayerNorm | None = None
        if self.has_encoder:
            layer.update(gamma_init=self.encoder_gamma, causal=encoder_causal)
            self.encoder_layers = nn.ModuleList(TransformerLayer(**layer, **shared) for _ in range(num_encoder_layers))
            self.encoder_norm = nn.LayerNorm(d_model, layers_of(self.encoder_layers)[0].attention_norm.eps, **made)
        if self.has_decoder:
            kind: type[TransformerLayer] = TransformerLayer
            layer.update(gamma_init=self.decoder_gamma, causal=decoder_causal)
            if self.has_encoder:
                kind = DilatedTransformerDecoderLayer
                layer["memory_causal"] = memory_causal
            self.decoder_layers = nn.ModuleList(kind(**layer, **shared) for _ in range(num_decoder_layers))
            self.decoder_norm = nn.LayerNorm(d_model, layers_of(self.decoder_layers)[0].attention_norm.eps, **made)

    @property
    def has_encoder(self) -> bool:
        return self.form != "decoder"

    @property
    def has_decoder(self) -> bool:
        return self.form != "encoder"

    def stack(self, encoder: bool) -> tuple[nn.ModuleList, nn.LayerNorm]:
        """Layers and last norm of the encoder or the decoder, which the form must have."""
        layers, norm = (self.encoder_layers, self.encoder_norm) if encoder else (self.decoder_layers, self.decoder_norm)
        assert layers is not None and norm is not None
        return layers, norm

    @property
    def encoder_gamma(self) -> float:
        """The Xavier gain of the encoder's value, output and feed-forward projections."""
        if self.gains["encoder_gamma_init"] > 0:
            return self.gains["encoder_gamma_init"]
        alone = math.log(2 * self.sizes["num_encoder_layers"])
        return math.sqrt(math.log(3 * self.sizes["num_decoder_layers"]) * alone / 3 if self.has_decoder else alone)

    @property
    def decoder_gamma(self) -> float:
        """The Xavier gain of the decoder's value, output and feed-forward projections."""
        if self.gains["decoder_gamma_init"] > 0:
            return self.gains["decoder_gamma_init"]
        return math.sqrt(math.log((3 if self.has_encoder else 2) * self.sizes["num_decoder_layers"]))

    @property
    def config(self) -> dict[str, Any]:
        """Every option by name, as in config.json: the constructor's arguments."""
        layer = layers_of(self.stack(self.has_encoder)[0])[0].config
        for name in ("embed_dim", "num_heads", "causal", "gamma_init", "learned"):
            del layer[name]
        checkpointing = {"activation_checkpointing": self.activation_checkpointing}
        return {"form": self.form, **self.sizes, **layer, **self.causal, **self.gains, **checkpointing}

    def reset_parameters(self) -> None:
        """MAGNETO's initialisation from torch's generator."""
        for stack in (self.encoder_layers, self.decoder_layers):
            for layer in () if stack is None else layers_of(stack):
                layer.reset_parameters()
        for norm in (self.encoder_norm, self.decoder_norm):
            if norm is not None:
                norm.reset_parameters()

    def check(self, name: str, x: Tensor, boundaries: Boundaries) -> None:
        layers, norm = self.stack(self.has_encoder)
        check_input(name, x, self.sizes["d_model"], norm.weight)
        length = x.size(1)
        if (ranks := layers_of(layers)[0].attention.attention.over_ranks) is not None:
            length = ranks.length(length, boundaries)
        if length > self.max_len:
            remedy = "raise max_len in the config"
            refuse(name, f"must not be longer than max_len {self.max_len}", length, remedy)

    def run(self, layers: nn.ModuleList, x: Tensor, *memory: Tensor, **call: Any) -> Tensor:
        dtype, boundaries = attention_dtype(x), call.get("boundaries")
        rotary = layers_of(layers)[0].attention.rotary_factors(0, x.size(1), dtype, x.device, boundaries)
        return run_layers(layers, x, *memory, checkpointing=self.activation_checkpointing, rotary=rotary, **call)

    def encode(self, source: Tensor, **call: Any) -> Tensor:
        """The encoder's part of forward(). Raises ValueError in the form "decoder"."""
        if not self.has_encoder:
            refuse("encode()", "needs a form with an encoder", self.form, "call forward()")
        self.check("source", source, call.get("boundaries"))
        layers, norm = self.stack(True)
        return norm(self.run(layers, source, **call))

    def decode(self, target: Tensor, memory: Tensor, **call: Any) -> Tensor:
        """The decoder's part of forward(), over what encode() gave. Raises ValueError in the other forms."""
        if self.form != "encoder_decoder":
            refuse("decode()", "needs the form encoder_decoder", self.form, "call forward()")
        self.check("target", target, call.get("boundaries"))
        self.check("memory", memory, call.get("boundaries"))
        self.check_shapes(target, memory)
        layers, norm = self.stack(False)
        return norm(self.run(layers, target, memory, **call))

    def check_shapes(self, target: Tensor, source: Tensor) -> None:
        if target.shape != source.shape:
            remedy = "pad the shorter one and mark its rows with lengths"
            refuse("target", f"must have the shape of the source, {shape(source)}", shape(target), remedy)

    def forward(
        self,
        source: Tensor,
        target: Tensor | None = None,
        *,
        lengths: Lengths = None,
        cu_seqlens: Lengths = None,
        deterministic: bool = False,
        boundaries: Boundaries = None,
    ) -> Tensor:
        """source [batch, len, d_model] -> [batch, len, d_model].

        Args:
            target: what the decoder of "encoder_decoder" reads, of the source's shape; None: the source itself.
            lengths, cu_seqlens, deterministic: as in `attention`; they hold for source and target alike.
            boundaries: of a model whose sequences lie with several ranks (`longstride.parallel.place`), as in
                `longstride.parallel.cp_attention`; source and target are this rank's rows then.
        Raises:
            ValueError: a target in another form; shapes, dtypes, devices that do not fit; input longer than max_len.
        """
        call: dict[str, Any] = {"lengths": lengths, "cu_seqlens": cu_seqlens, "deterministic": deterministic, "boundaries": boundaries}
        if self.form != "encoder_decoder" and target is not None:
            remedy = "use the form encoder_decoder, or pass one sequence"
            refuse("target", f"must be None in the form {self.form}", shape(target), remedy)
        self.check("source", source, boundaries)
        if self.form == "encoder":
            return self.encode(source, **call)
        if self.form == "decoder":
            layers, norm = self.stack(False)
            return norm(self.run(layers, source, **call))
        target = source if target is None else target
        self.check_shapes(target, source)
        return self.decode(target, self.encode(source, **call), **call)


def check_config(given: Mapping[str, Any]) -> None:
    """What LongNetConfig::validate() refuses and the layers do not."""
    form = given["form"]
    if form not in FORMS:
        refuse_unknown("form", form, FORMS)
    require_positive("d_model", given["d_model"])
    require_positive("nhead", given["nhead"])
    if given["d_model"] % given["nhead"]:
        refuse("d_model", f"must be a multiple of nhead {given['nhead']}", given["d_model"])
    for name, remedy in (
        ("causal", "say encoder_causal, decoder_causal or memory_causal"),
        ("gamma_init", "say encoder_gamma_init or decoder_gamma_init"),
        ("learned", "build a model of layers"),
    ):
        if name in given["layer_options"]:
            refuse(name, "must be unset in a LongNet, whose parts differ in it", given["layer_options"][name], remedy)
    pattern = given["pattern"]
    if isinstance(pattern, Pattern) and pattern.causal:
        remedy = "say encoder_causal, decoder_causal or memory_causal, and call with_causal(False)"
        refuse("causal of pattern", "must be False in a LongNet, whose parts differ in it", True, remedy)
    require_gain("encoder_gamma_init", given["encoder_gamma_init"])
    require_gain("decoder_gamma_init", given["decoder_gamma_init"])
    lacks = []  # options of parts that the form lacks, which would have no effect
    for part in ("encoder", "decoder"):
        if form in (part, "encoder_decoder"):
            require_positive(f"num_{part}_layers", given[f"num_{part}_layers"])
        else:
            lacks += [(f"{part}_causal", part == "decoder"), (f"{part}_gamma_init", 0)]
    if form != "encoder_decoder":
        lacks.append(("memory_causal", False))
    for name, default in lacks:
        if given[name] != default:
            wanted = f"must have its default in the form {form}, which lacks that part"
            refuse(name, wanted, given[name], "leave it out")
