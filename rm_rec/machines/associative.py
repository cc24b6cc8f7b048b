"""Slots that compete for each event and sum the events that they win: nothing is overwritten, and counts are kept.

Slot k has a learned address a_k; a segment's events are f_n. With w_kn = softmax_k(a_k . k(f_n)), over the slots:

    s_k <- g_k s_k + sum_n w_kn v(f_n)          sum of the events that slot k won, decayed by g_k at each segment
    c_k <- g_k c_k + sum_n w_kn                 sum of their weights

A reader sees m_k = s_k / sqrt(1 + c_k), whose norm does not depend on a history's length (the sum of c orthogonal
vectors has sqrt(c) times the norm of one): m_k + a_k as key and m_k as value, each with log(1 + c_k) appended. Related:
slot attention (Locatello et al. 2020), where slots compete too; linear attention (Katharopoulos et al. 2020), whose
state is additive too. Suffixes: U user, S segment, N event, K slot, D slot dim.
"""

import torch
from torch import Tensor, nn

from rm_rec.config.machines import AssociativeMemory
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace
from rm_rec.machines.softmax_sums import softmax_sums


class AssociativeMachine(MemoryMachine):
    """A few slots per user; each has the decayed sum of the events that it won, and of their weights."""

    config_type = AssociativeMemory

    def __init__(self, config: AssociativeMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots, self.content_dim = config.num_slots, config.slot_dim
        self.slot_dim = config.slot_dim + 1
        self.address = nn.Parameter(torch.randn(config.num_slots, config.slot_dim))
        self.key = nn.Linear(token_dim, config.slot_dim, bias=False)
        self.value = nn.Linear(token_dim, config.slot_dim, bias=False)
        for projection in (self.key, self.value):
            nn.init.eye_(projection.weight)  # slots are in the tokens' space
        self.keep = nn.Parameter(torch.full((config.num_slots,), config.keep_bias))

    def state_spec(self) -> StateSpec:
        """Return the shapes: a vector and a count for each slot."""
        return {"sum": (self.num_slots, self.content_dim), "count": (self.num_slots,)}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {
            "sum": self.address.new_zeros(num_users, self.num_slots, self.content_dim),
            "count": self.address.new_zeros(num_users, self.num_slots),
        }

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Sum each segment by itself; only the decayed sum over segments is a loop."""
        num_users, num_segments = valid.shape[:2]
        won_RKD = self._won(segments.flatten(0, 1)[:, None], valid.flatten(0, 1)[:, None])
        won_USKD = won_RKD.view(num_users, num_segments, *won_RKD.shape[1:])
        keep_K1 = torch.sigmoid(self.keep)[:, None]
        keep_USK1 = torch.where(valid.any(dim=2)[..., None, None], keep_K1, 1.0)
        totals = [_with_counts(state)]
        for won_UKD, keep_UK1 in zip(won_USKD.unbind(1), keep_USK1.unbind(1), strict=True):
            totals.append(torch.addcmul(won_UKD, totals[-1], keep_UK1))
        trace = torch.stack(totals, dim=1)
        return {"sum": trace[..., :-1], "count": trace[..., -1]}

    def fold_last(self, state: State, segments: Tensor, valid: Tensor) -> State:
        """Sum all segments at once, each times what is left of it at the end: without a loop, and without a trace."""
        not_empty_US = valid.any(dim=2).to(torch.int64)
        num_later_US = not_empty_US.flip(1).cumsum(dim=1).flip(1) - not_empty_US
        keep_K = torch.sigmoid(self.keep)
        left_UK = keep_K ** not_empty_US.sum(dim=1, keepdim=True)
        total_UKD = _with_counts(state) * left_UK[..., None]
        total_UKD = total_UKD + self._won(segments, valid, keep_K ** num_later_US[..., None])
        return {"sum": total_UKD[..., :-1], "count": total_UKD[..., -1]}

    def _won(self, segments: Tensor, valid: Tensor, left_USK: Tensor | None = None) -> Tensor:
        """Return the sums of the values that slots won, and the sums of weights as the last column, [U, K, D + 1].

        `left_USK` are factors of the segments, 1 by default.
        """
        if left_USK is None:
            left_USK = segments.new_ones(*valid.shape[:2], self.num_slots)
        counted_US = valid.any(dim=2)
        if not torch.equal(counted_US, valid.all(dim=2)):  # segments that are not full: each event has its own factor
            left_USK = left_USK.repeat_interleave(valid.shape[2], dim=1)
            segments, counted_US = segments.flatten(1, 2)[:, :, None], valid.flatten(1)
        # Keys and addresses in one product with the events; values after the sum, since both are linear.
        address = self.address @ self.key.weight
        sums_UKD, counts_UK = softmax_sums(segments, address, left_USK * counted_US[..., None])
        return torch.cat([self.value(sums_UKD), counts_UK[..., None]], dim=-1)

    def slots(self, state: State) -> Slots:
        """Return each slot's content with the logarithm of its count; a slot is valid once its count is above 0."""
        count = state["count"]
        content = state["sum"] / torch.sqrt(1.0 + count)[..., None]
        log_count = torch.log1p(count)[..., None]
        keys = torch.cat([content + self.address, log_count], dim=-1)
        return Slots(keys, torch.cat([content, log_count], dim=-1), count > 0)


def _with_counts(state: State) -> Tensor:
    """Return sums and counts as one tensor, so that one multiplication decays both."""
    return torch.cat([state["sum"], state["count"][..., None]], dim=-1)
