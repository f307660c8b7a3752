"""The distributed classes over the improved ones."""

from longstride.compat.dilated_attention_pytorch._attention import DistributedImprovedDilatedAttention
from longstride.compat.dilated_attention_pytorch._multihead import DistributedImprovedMultiheadDilatedAttention
from longstride.compat.dilated_attention_pytorch._missing import TRAINER, missing

__all__ = ["DistributedImprovedDilatedAttention", "DistributedImprovedMultiheadDilatedAttention"]

__getattr__ = missing(
    __name__,
    {
        "DeepSpeedDilatedAttentionEngine": TRAINER,
        "create_distributed_model": TRAINER,
        "get_recommended_config": TRAINER,
    },
)
