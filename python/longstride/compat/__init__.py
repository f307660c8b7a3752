"""Other libraries' modules over this package's attention: `longstride.compat.torchscale`."""
