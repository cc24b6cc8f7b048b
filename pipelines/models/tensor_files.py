"""Reading and writing tensors as safetensors files."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.errors import ModelError, first_line


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors; raises OSError, for instance if the disk is full."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        system_error = re.search(r"os error (\d+)", str(error))
        if system_error is None:
            raise
        code = int(system_error.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors; raises ModelError if the file is missing or damaged."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from error
    return tensors
