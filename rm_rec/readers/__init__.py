"""Readers: what answers a query from the slots of a memory."""

from rm_rec.config import AttentionReader, Reader
from rm_rec.readers.attention import SlotAttention


def build_reader(config: Reader, token_dim: int, slot_dim: int) -> SlotAttention:
    """Make the reader that the config names."""
    assert isinstance(config, AttentionReader)
    return SlotAttention(config, token_dim, slot_dim)
