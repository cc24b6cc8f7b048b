"""Tensors in safetensors files: a damaged file is bad input, a full disk is the system's refusal."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.errors import ModelError, first_line


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors; raise OSError where the system refuses."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        refused = re.search(r"os error (\d+)", str(error))
        if refused is None:
            raise
        code = int(refused.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors; raise ModelError where the file is missing or damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from error
    return tensors
