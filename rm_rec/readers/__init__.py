"""Readers: what answers a query from the slots of a memory. One file a reader, one line here."""

from rm_rec.reader_config import AttentionReader, HierarchicalReader, MultiHopReader
from rm_rec.reader_config import Reader as ReaderConfig
from rm_rec.readers.attention import SlotAttention
from rm_rec.readers.base import Reader
from rm_rec.readers.hierarchical import Hierarchical
from rm_rec.readers.multi_hop import MultiHop
from rm_rec.readers.supporting_facts import SupportingFacts


def build_reader(config: ReaderConfig, token_dim: int, slot_dim: int) -> Reader:
    """Make the reader that the config names."""
    if isinstance(config, AttentionReader):
        return SlotAttention(config, token_dim, slot_dim)
    if isinstance(config, MultiHopReader):
        return MultiHop(config, token_dim, slot_dim)
    if isinstance(config, HierarchicalReader):
        return Hierarchical(config, token_dim, slot_dim)
    return SupportingFacts(config, token_dim, slot_dim)
