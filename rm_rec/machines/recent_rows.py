"""Which rows are the last ones at each boundary: for machines that keep recent events as they are.

Rows are numbered as they lie in [what is kept already; the events of all segments]: 0 to K - 1, then K to K + SN - 1.
Suffixes: U user, S segment, N event of a segment, K row kept, R row, D dim.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class RecentRows:
    """The last K rows at each boundary of some segments, oldest first."""

    place: Int[Tensor, "user boundary row"]
    is_new: Bool[Tensor, "user boundary row"]  # an event of the segment that ends at the boundary

    def take(self, rows_URD: Float[Tensor, "user all dim"]) -> Float[Tensor, "user boundary row dim"]:
        """Lay out the rows of each boundary."""
        num_users, num_rows, dim = rows_URD.shape
        first_U = num_rows * torch.arange(num_users, device=rows_URD.device)
        flat = (self.place + first_U[:, None, None]).flatten()
        return rows_URD.reshape(-1, dim).index_select(0, flat).view(*self.place.shape, dim)


def recent_rows(valid: Bool[Tensor, "user segment event"], num_kept: int) -> RecentRows:
    """Find the last `num_kept` rows before the first segment and after each, passing over what is not valid."""
    num_users, num_segments, length = valid.shape
    # The kept rows, then the valid events in their order, then the others.
    _, order_UE = torch.sort(~valid.flatten(1), dim=1, stable=True)
    kept_UK = torch.arange(num_kept, device=valid.device).expand(num_users, -1)
    sorted_UR = torch.cat([kept_UK, num_kept + order_UE], dim=1)
    ended_US = torch.nn.functional.pad(valid.sum(dim=2).cumsum(dim=1), (1, 0))
    within_USK = ended_US[..., None] + torch.arange(num_kept, device=valid.device)
    place_USK = sorted_UR.gather(1, within_USK.flatten(1)).view(within_USK.shape)
    first_new_S = num_kept + length * torch.arange(-1, num_segments, device=valid.device)
    return RecentRows(place_USK, (place_USK >= num_kept) & (place_USK >= first_new_S[:, None]))
