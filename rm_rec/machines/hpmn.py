"""Stacked recurrent units of growing periods (HPMN, Ren et al., SIGIR 2019, arXiv 1905.00758).

Layer j holds m_j and moves at every p_j-th event, p_j = growth^j for j = 0, 1, ...:

    m_0 <- GRU_0(x, m_0)               at every event x
    m_j <- GRU_j(m_{j-1}, m_j)         where the number of the user's events, this one included, divides by p_j

so low layers know the last events and high layers the whole life; the last states are the slots. The count of events is
part of the state: a stretch goes on in the middle of a period. The covariance of the layers' vectors is kept small, so
that they hold different things:

    C_ij = (m_i - mean(m_i)) . (m_j - mean(m_j)) / D,   penalty = weight (|C|^2 - |diag C|^2) / 2

Chosen here: the periods are powers of one number; layers begin learned, not zero, as equal slots are one slot to a
reader; each gate begins by keeping, each candidate as the identity. The paper's three-hop read is a reader's part.
Layer j of all users is one pass of PyTorch's GRU over a sequence of T / p_j steps: no loop over events in Python.
Suffixes: U user, S segment, T step of a layer, D slot dim.
"""

import torch
from torch import Tensor, nn

from rm_rec.config.machines import HpmnMemory
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace
from rm_rec.machines.recurrence import begin_by_adding, path, real_events_first, taken


class HpmnMachine(MemoryMachine):
    """A slot for each time scale: layer j of a stack of gated recurrent units moves at every growth^j-th event."""

    config_type = HpmnMemory
    exact_parts = ("steps",)
    size_setting = "slot_dim"

    def __init__(self, config: HpmnMemory, token_dim: int) -> None:
        super().__init__()
        self.slot_dim = config.slot_dim
        self.periods = [config.growth**layer for layer in range(config.num_layers)]
        self.covariance_weight = config.covariance_weight
        self.start = nn.Parameter(0.1 * torch.randn(config.num_layers, config.slot_dim))
        inputs = [token_dim] + [config.slot_dim] * (config.num_layers - 1)
        layers = [nn.GRU(size, config.slot_dim, batch_first=True) for size in inputs]
        for layer in layers:
            begin_by_adding(layer, config.keep_bias, to_itself=True)
        self.layers = nn.ModuleList(layers)

    def state_spec(self) -> StateSpec:
        """A vector a layer, and how many events were seen (exact up to 2^24)."""
        return {"layers": (len(self.periods), self.slot_dim), "steps": ()}

    def initial(self, num_users: int) -> State:
        """The learned starts, the same for every user."""
        return {"layers": self.start.expand(num_users, -1, -1), "steps": self.start.new_zeros(num_users)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Run layer after layer over the whole stretch."""
        before_U1 = state["steps"].long()[:, None]
        steps_US = before_U1 + nn.functional.pad(valid.sum(dim=2).cumsum(dim=1), (1, 0))
        below_UTD, below_period = real_events_first(segments, valid), 1
        trace = []
        for layer, (unit, period) in enumerate(zip(self.layers, self.periods, strict=True)):
            assert isinstance(unit, nn.GRU)
            first_U1 = before_U1 // period  # how often this layer had moved before the stretch
            moves_US = steps_US // period - first_U1
            longest = int(moves_US.max()) if moves_US.numel() else 0
            # The layer's move number t is at event period * (first + t), when the one below has just moved as well.
            event_UT = period * (first_U1 + torch.arange(1, longest + 1, device=before_U1.device))
            source_UT = event_UT // below_period - before_U1 // below_period
            if layer == 0:
                source_UT = source_UT - 1  # events have no state before the first
            # Users who move less often than others get some vectors more, whose results nobody takes.
            path_UTD = path(unit, state["layers"][:, layer], taken(below_UTD, source_UT))
            trace.append(taken(path_UTD, moves_US))
            below_UTD, below_period = path_UTD, period
        return {"layers": torch.stack(trace, dim=2), "steps": steps_US.to(segments.dtype)}

    def slots(self, state: State) -> Slots:
        """Each layer is its own key and value, valid once it has moved."""
        layers = state["layers"]
        periods = torch.tensor(self.periods, device=layers.device)
        return Slots(layers, layers, state["steps"][:, None] >= periods)

    def penalty(self, state: State) -> Tensor:
        """Return the squared covariances of different layers, summed over pairs."""
        apart_UKD = state["layers"] - state["layers"].mean(dim=-1, keepdim=True)
        covariance_UKK = apart_UKD @ apart_UKD.transpose(1, 2) / self.slot_dim
        pairs_UKK = covariance_UKK.triu(diagonal=1)
        return self.covariance_weight * pairs_UKK.square().sum() / max(len(pairs_UKK), 1)
