"""The last rows at each boundary, for machines that keep recent events as they are.

Rows are numbered in the order [rows in the state; events of all segments]: 0 to K - 1, then K to K + SN - 1.
Suffixes: U user, S segment, N event of a segment, K row of the state, R row, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RecentRows:
    """The last K rows at each boundary of some segments, oldest first."""

    index: Int[Tensor, "user boundary row"]
    is_new: Bool[Tensor, "user boundary row"]  # whether it is an event of the segment that ends at the boundary

    def take(self, rows_URD: Float[Tensor, "user all dim"]) -> Float[Tensor, "user boundary row dim"]:
        """Select the last rows at each boundary from all rows."""
        num_users, num_rows, dim = rows_URD.shape
        first_U = num_rows * torch.arange(num_users, device=rows_URD.device)
        flat = (self.index + first_U[:, None, None]).flatten()
        return rows_URD.reshape(-1, dim).index_select(0, flat).view(*self.index.shape, dim)


def recent_rows(valid: Bool[Tensor, "user segment event"], num_rows: int) -> RecentRows:
    """Return the last `num_rows` rows before the first segment and after each, skipping events that are not valid."""
    num_users, num_segments, length = valid.shape
    # The rows of the state, then the valid events in their order, then the others.
    _, order_UE = torch.sort(~valid.flatten(1), dim=1, stable=True)
    state_UK = torch.arange(num_rows, device=valid.device).expand(num_users, -1)
    sorted_UR = torch.cat([state_UK, num_rows + order_UE], dim=1)
    count_US = torch.nn.functional.pad(valid.sum(dim=2).cumsum(dim=1), (1, 0))
    within_USK = count_US[..., None] + torch.arange(num_rows, device=valid.device)
    index_USK = sorted_UR.gather(1, within_USK.flatten(1)).view(within_USK.shape)
    first_new_S = num_rows + length * torch.arange(-1, num_segments, device=valid.device)
    return RecentRows(index_USK, (index_USK >= num_rows) & (index_USK >= first_new_S[:, None]))
