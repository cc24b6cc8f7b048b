"""What machines with an erase-and-add memory share: where to write, by likeness, and how.

Suffixes: U user, H head, K slot, D slot dim.
"""

import torch
from torch import Tensor

SMALLEST_NORM = 1e-6  # a row of zeros is like nothing: its likeness is 0, and its gradient finite


def likeness(keys_UHD: Tensor, memory_UKD: Tensor) -> Tensor:
    """Return keys times rows of length 1, [U, H, K]: for a key of length beta, beta times the cosine.

    Source: Graves et al. 2014, equation 6.
    """
    norms_UK = torch.linalg.vector_norm(memory_UKD, dim=-1).clamp(min=SMALLEST_NORM)
    likeness_UHK: Tensor = keys_UHD @ memory_UKD.mT / norms_UK[:, None]
    return likeness_UHK


def erase_and_add(memory_UKD: Tensor, weight_UK: Tensor, erase_UD: Tensor, add_UD: Tensor) -> Tensor:
    """Return m_k * (1 - w_k e) + w_k a for each row (Graves et al. 2014, equations 3 and 4).

    A row of weight 0 stays as it was, bit by bit.
    """
    change_UKD = torch.addcmul(add_UD[:, None], erase_UD[:, None], memory_UKD, value=-1.0)
    return torch.addcmul(memory_UKD, weight_UK[..., None], change_UKD)
