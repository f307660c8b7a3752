"""Other libraries' models over this package's attention: `torchscale`, `dilated_attention_pytorch`, `transformers`."""
