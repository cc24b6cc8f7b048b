"""The hash of JSON values, by which runs, builds and decisions are named after what they depend on."""

import json
from typing import Any

from feature_store.files import sha256_of_text


def sha256_of_json(values: Any) -> str:
    """Hash JSON values; the order of keys does not matter.

    >>> sha256_of_json({"lr": 0.1, "seed": 2}) == sha256_of_json({"seed": 2, "lr": 0.1})
    True
    """
    return sha256_of_text(json.dumps(values, sort_keys=True))
