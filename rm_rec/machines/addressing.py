"""Addressing by content, and writing by erase and add, for machines whose memory is a matrix of rows.

Suffixes: U user, H head, K slot, D slot dim.
"""

import torch
from torch import Tensor

SMALLEST_NORM = 1e-6  # so that a row of zeros has similarity 0, and a finite gradient


def scaled_cosine(keys_UHD: Tensor, memory_UKD: Tensor) -> Tensor:
    """Return the cosine similarity of keys and rows times the keys' norm beta, [U, H, K].

    Source: beta times equation 6 of Graves et al. 2014.
    """
    norms_UK = torch.linalg.vector_norm(memory_UKD, dim=-1).clamp(min=SMALLEST_NORM)
    cosine_UHK: Tensor = keys_UHD @ memory_UKD.mT / norms_UK[:, None]
    return cosine_UHK


def erase_and_add(memory_UKD: Tensor, weight_UK: Tensor, erase_UD: Tensor, add_UD: Tensor) -> Tensor:
    """Return m_k * (1 - w_k e) + w_k a for each row (Graves et al. 2014, equations 3 and 4).

    A row with weight 0 stays unchanged, bit by bit.
    """
    change_UKD = torch.addcmul(add_UD[:, None], erase_UD[:, None], memory_UKD, value=-1.0)
    return torch.addcmul(memory_UKD, weight_UK[..., None], change_UKD)
