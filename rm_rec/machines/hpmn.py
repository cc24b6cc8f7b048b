"""Stacked recurrent layers with growing update periods (HPMN, Ren et al., SIGIR 2019, arXiv 1905.00758).

Layer j has the hidden state m_j and is updated at every p_j-th event, p_j = growth^j for j = 0, 1, ...:

    m_0 <- GRU_0(x, m_0)               at every event x
    m_j <- GRU_j(m_{j-1}, m_j)         if p_j divides the number of the user's events, including this one

so low layers represent the last events and high layers the whole history; the hidden states are the slots. The number
of events is part of the state, since a stretch may start in the middle of a period. A penalty keeps the covariance of
the layers' vectors small, so that layers represent different things:

    C_ij = (m_i - mean(m_i)) . (m_j - mean(m_j)) / D,   penalty = weight (|C|^2 - |diag C|^2) / 2

Our choices: the periods are powers of one number; initial states are learned, not zero, since a reader cannot
distinguish equal slots; gates are initialised to keep the state, and candidates to the identity. The paper's three-hop
read is up to the reader. Layer j of all users is one pass of PyTorch's GRU over T / p_j steps: there is no Python loop
over events. Suffixes: U user, S segment, T step of a layer, D slot dim.
"""

import torch
from torch import Tensor, nn

from rm_rec.config.machines import HpmnMemory
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace
from rm_rec.machines.recurrence import initialise_to_add, real_events_first, run_gru, select_rows


class HpmnMachine(MemoryMachine):
    """A slot for each time scale: layer j of a stack of GRUs is updated at every growth^j-th event."""

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
            initialise_to_add(layer, config.keep_bias, to_itself=True)
        self.layers = nn.ModuleList(layers)

    def state_spec(self) -> StateSpec:
        """Return the shapes: a vector for each layer, and the number of events (exact up to 2^24)."""
        return {"layers": (len(self.periods), self.slot_dim), "steps": ()}

    def initial(self, num_users: int) -> State:
        """Return the learned initial states, the same for every user."""
        return {"layers": self.start.expand(num_users, -1, -1), "steps": self.start.new_zeros(num_users)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Run one layer after the other over all segments."""
        before_U1 = state["steps"].long()[:, None]
        steps_US = before_U1 + nn.functional.pad(valid.sum(dim=2).cumsum(dim=1), (1, 0))
        below_UTD, below_period = real_events_first(segments, valid), 1
        trace = []
        for layer, (unit, period) in enumerate(zip(self.layers, self.periods, strict=True)):
            assert isinstance(unit, nn.GRU)
            first_U1 = before_U1 // period  # number of this layer's updates before these segments
            updates_US = steps_US // period - first_U1
            longest = int(updates_US.max()) if updates_US.numel() else 0
            # Update t of the layer is at event period * (first + t), right after an update of the layer below.
            event_UT = period * (first_U1 + torch.arange(1, longest + 1, device=before_U1.device))
            source_UT = event_UT // below_period - before_U1 // below_period
            if layer == 0:
                source_UT = source_UT - 1  # events have no state before the first
            # Users with fewer updates than others have padding at the end, whose results are not used.
            hidden_UTD = run_gru(unit, state["layers"][:, layer], select_rows(below_UTD, source_UT))
            trace.append(select_rows(hidden_UTD, updates_US))
            below_UTD, below_period = hidden_UTD, period
        return {"layers": torch.stack(trace, dim=2), "steps": steps_US.to(segments.dtype)}

    def slots(self, state: State) -> Slots:
        """Return each layer's state as key and value; a layer is valid once it was updated."""
        layers = state["layers"]
        periods = torch.tensor(self.periods, device=layers.device)
        return Slots(layers, layers, state["steps"][:, None] >= periods)

    def penalty(self, state: State) -> Tensor:
        """Return the weighted sum, over pairs of layers, of their squared covariances."""
        centred_UKD = state["layers"] - state["layers"].mean(dim=-1, keepdim=True)
        covariance_UKK = centred_UKD @ centred_UKD.transpose(1, 2) / self.slot_dim
        pairs_UKK = covariance_UKK.triu(diagonal=1)
        return self.covariance_weight * pairs_UKK.square().sum() / max(len(pairs_UKK), 1)
