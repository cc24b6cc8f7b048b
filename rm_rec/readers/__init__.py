"""Readers, which answer queries from the slots of a memory: one file and one line here for each.

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

# The default comes first; each key is the `kind` of the reader's settings.
READERS: Final[dict[str, type[Reader]]] = {
    "attention": SlotAttention,
    "multi_hop": MultiHop,
    "supporting_facts": SupportingFacts,
    "hierarchical": Hierarchical,
}


def build_reader(
    config: ReaderSettings, token_dim: int, slot_dim: int, allowed_packages: Collection[str] = ()
) -> Reader:
    """Build the reader that the config names; readers of other packages as in `build_machine`."""
    if config.kind in READERS:
        return READERS[config.kind](config, token_dim, slot_dim)
    reader, settings = load_outside(config, Reader, allowed_packages, "reader")
    return reader(settings, token_dim, slot_dim)
