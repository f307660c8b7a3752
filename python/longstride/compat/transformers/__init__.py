"""longstride's attention in the models of Hugging Face transformers, chosen by name.

    from longstride.compat.transformers import register

    register()
    model.set_attn_implementation("longstride")  # or attn_implementation="longstride" when the model is made
    model.config.longstride = {"segment_lengths": [2048, 8192], "dilation_rates": [1, 4]}  # else dense attention

Padding, packed rows, caches, sliding windows and sinks are honoured, or refused with a ValueError that says why:
docs/transformers.md.
"""

from ._register import register, unregister

__all__ = ["register", "unregister"]
