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
        """Compute the attention weights of all segments at once; only the decayed sum is a loop."""
        weight_USNK = (self.key(segments) @ self.address.T).softmax(dim=-1).masked_fill(~valid[..., None], 0.0)
        # Counts are an additional column, so that one multiplication decays sums and counts.
        value_USND = nn.functional.pad(self.value(segments), (0, 1), value=1.0)
        won_USKD = weight_USNK.transpose(2, 3) @ value_USND
        keep_K1 = torch.sigmoid(self.keep)[:, None]
        keep_USK1 = torch.where(valid.any(dim=2)[..., None, None], keep_K1, 1.0)
        totals = [torch.cat([state["sum"], state["count"][..., None]], dim=-1)]
        for won, keep in zip(won_USKD.unbind(1), keep_USK1.unbind(1), strict=True):
            totals.append(totals[-1] * keep + won)
        trace = torch.stack(totals, dim=1)
        return {"sum": trace[..., :-1], "count": trace[..., -1]}

    def slots(self, state: State) -> Slots:
        """Return each slot's content with the logarithm of its count; a slot is valid once its count is above 0."""
        count = state["count"]
        content = state["sum"] / torch.sqrt(1.0 + count)[..., None]
        log_count = torch.log1p(count)[..., None]
        keys = torch.cat([content + self.address, log_count], dim=-1)
        return Slots(keys, torch.cat([content, log_count], dim=-1), count > 0)
