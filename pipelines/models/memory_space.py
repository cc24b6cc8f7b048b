"""Memory spaces: the hash of the config, the vocabulary and the weights that memories are written with."""

import hashlib
import json

from torch import Tensor

from feature_store.hashing import stable_hash
from feature_store.vocabulary.vocabularies import Vocabularies
from rm_rec.config.base import NamedSettings
from rm_rec.model import ClickModel

FORMAT = 1


def space_id(model: ClickModel, vocabularies: Vocabularies) -> str | None:
    """Return the id of a model's memory space, 16 hexadecimal digits; None if its window is the whole history.

    Readers, click head and context are not in the hash: models that differ only in them can read the same memories.
    """
    if model.memory.window.whole_history:
        return None
    config = model.config
    digest = hashlib.sha256()
    written_by: dict[str, object] = {
        "format": FORMAT,
        "token_dim": config.token_dim,
        "segment_length": config.segment_length,
        "window_segments": model.memory.window.num_segments,
        "encoder": _named_first(config.encoder),
        "machine": _named_first(config.machine),
        "features": model.features.events,
        "oov_rows": [vocabularies.features[name].oov_rows for name in model.features.events],
    }
    if config.sources:  # only then: a model without further sources keeps the id of version 0.1
        written_by["sources"] = {name: _named_first(source) for name, source in config.sources.items()}
    digest.update(json.dumps(written_by, sort_keys=True).encode())
    for name in model.features.events:
        ids = vocabularies.features[name].ids
        digest.update(f"\0{name}\0{ids.type}\0{len(ids)}\0".encode())
        digest.update(stable_hash(ids).astype("<u8").tobytes())
    # Weights of slots have their names of version 0.1, so that its memories stay valid.
    writing = {name.replace("memory.slots.", "memory."): weight for name, weight in model.writing_weights().items()}
    for name, weight in sorted(writing.items()):
        digest.update(f"\0{name}\0{tuple(weight.shape)}\0".encode())
        digest.update(_bytes(weight))
    return digest.hexdigest()[:16]


def _named_first(block: NamedSettings) -> dict[str, object]:
    """Dump a block under the first name of its kind: memories built before a kind was renamed stay readable."""
    return block.model_dump(mode="json") | {"kind": block.first_kind}


def _bytes(weight: Tensor) -> bytes:
    return weight.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
