"""Other libraries' modules over this package's attention: `longstride.compat.torchscale`, `longstride.compat.dilated_attention_pytorch`."""
