"""Readers: what answers a query from the slots of a memory. One file a reader, one line here.

Their settings are in rm_rec/config/readers.py.
"""

from collections.abc import Collection
from typing import Final

from rm_rec.config.base import ReaderSettings
from rm_rec.outside import load_outside
from rm_rec.readers.attention import SlotAttention
from rm_rec.readers.base import Reader
from rm_rec.readers.hierarchical import Hierarchical
from rm_rec.readers.multi_hop import MultiHop
from rm_rec.readers.supporting_facts import SupportingFacts

# The default first; each kind is that of the reader's own settings.
READERS: Final[dict[str, type[Reader]]] = {
    "attention": SlotAttention,
    "multi_hop": MultiHop,
    "supporting_facts": SupportingFacts,
    "hierarchical": Hierarchical,
}


def build_reader(
    config: ReaderSettings, token_dim: int, slot_dim: int, allowed_packages: Collection[str] = ()
) -> Reader:
    """Make the reader that the config names; of other packages' ones as `build_machine`."""
    if config.kind in READERS:
        return READERS[config.kind](config, token_dim, slot_dim)
    reader, settings = load_outside(config, Reader, allowed_packages, "reader")
    return reader(settings, token_dim, slot_dim)
