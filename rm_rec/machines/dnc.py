"""The Differentiable Neural Computer's memory (Graves et al., Nature 538, 2016, "Methods").

A controller sees each event x, and what its read heads found the event before, r. One head writes, R heads read:

    h     = LayerNorm(A x + B r)                            the controller; each figure below is a linear map of h
    u_k  <- (u_k + w_k - u_k w_k) prod_R (1 - f r_k)        usage: what was written to and not freed, f = sigmoid(.)
    a_k   = (1 - u_k) prod_(rows j of less usage) u_j       allocation: the least used row first
    c_k   = softmax_k(beta cos(key, m_k))                   content, beta = 1 + softplus(.)
    w     = g_w (g_a a + (1 - g_a) c)                       the write head, gates g = sigmoid(.)
    m_k  <- m_k * (1 - w_k erase) + w_k write               erase = sigmoid(.)
    r_k   = softmax_k(beta cos(key, m_k))                   each read head, after the write

With temporal links (off by default: K^2 numbers a user) the read heads can also follow the order of writing:

    L_ij <- (1 - w_i - w_j) L_ij + w_i p_j, L_ii = 0        row i was written after row j
    p    <- (1 - sum_k w_k) p + w                           what was written last
    r     = pi_1 L^T r + pi_2 c + pi_3 L r                  pi = softmax(.)

Chosen where the paper leaves it open: the feed-forward controller (an LSTM's state would take a user's bytes from the
rows); its layer normalisation is Franke, Niehues and Waibel's (2018), against diverging; rows begin learned (not zero:
cosine). Rows of equal usage are taken in their order. Chosen for training: keys and `write` begin as the event itself,
`erase` and f begin low. Clicks are read from the rows by the model's reader; the read heads serve to free rows, and the
controller where `controller_reads` (off by default: without, heads are steered for all events at once).
Suffixes: U user, T event, H head (the readers, then the writer), R read head, K slot, D slot dim, C controller.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from rm_rec.config.machines import DncMemory
from rm_rec.machines.addressing import SMALLEST_NORM, erase_and_add, likeness
from rm_rec.machines.base import Slots, State, StateSpec
from rm_rec.machines.recurrence import EventLoopMachine

_SMALLEST_USAGE = 1e-30  # before a logarithm


class _Steering(NamedTuple):
    """What the controller says at an event, or (with an axis more) at each of some events."""

    key: Tensor  # of each head, as long as beta
    free: Tensor
    write_gate: Tensor
    allocation_gate: Tensor
    erase: Tensor
    write: Tensor
    modes: Tensor  # of each read head: backward, content, forward; empty without links


class DncMachine(EventLoopMachine):
    """Rows a user, written by content or where there is room."""

    config_type = DncMemory

    def __init__(self, config: DncMemory, token_dim: int) -> None:
        super().__init__()
        self.num_slots, self.slot_dim, self.read_heads = config.num_slots, config.slot_dim, config.read_heads
        self.temporal_links = config.temporal_links
        self.start = nn.Parameter(0.1 * torch.randn(config.num_slots, config.slot_dim))
        self.from_event = nn.Linear(token_dim, config.controller_dim, bias=False)
        self.from_read = None
        if config.controller_reads:
            self.from_read = nn.Linear(config.read_heads * config.slot_dim, config.controller_dim, bias=False)
        self.normalise = nn.LayerNorm(config.controller_dim)
        heads, dim = config.read_heads + 1, config.slot_dim
        modes = 3 * config.read_heads if config.temporal_links else 0
        self.sizes = [heads * dim, heads, config.read_heads, 1, 1, dim, dim, modes]
        self.steer = nn.Linear(config.controller_dim, sum(self.sizes))
        square = torch.ones(config.num_slots, config.num_slots)
        self.earlier: Tensor
        self.register_buffer("earlier", square.tril(-1).bool(), persistent=False)
        self.others: Tensor
        self.register_buffer("others", square - torch.eye(config.num_slots), persistent=False)
        self._begin_by_keeping(config.keep_bias)

    @torch.no_grad()
    def _begin_by_keeping(self, keep_bias: float) -> None:
        """Let heads begin by looking for what is like the event, and the write head by adding the event there."""
        nn.init.eye_(self.from_event.weight)
        if self.from_read is not None:
            nn.init.zeros_(self.from_read.weight)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)
        key, *_, write, _ = torch.split(self.steer.weight, self.sizes)
        for weight in (*torch.split(key, self.slot_dim), write):
            nn.init.eye_(weight)
        _, strength, free, write_gate, _, erase, _, _ = torch.split(self.steer.bias, self.sizes)
        strength.fill_(5.0)
        free.fill_(-5.0)
        write_gate.fill_(3.0)
        erase.fill_(-keep_bias)

    def state_spec(self) -> StateSpec:
        """The rows, how used they are, where each head stands, and the links where they are on."""
        slots = self.num_slots
        parts: StateSpec = {
            "memory": (slots, self.slot_dim),
            "usage": (slots,),
            "written": (slots,),
            "read": (self.read_heads, slots),
        }
        return parts | ({"links": (slots, slots), "last": (slots,)} if self.temporal_links else {})

    def initial(self, num_users: int) -> State:
        """The learned rows, the same for every user; nothing written, nothing read."""
        zeros = {name: self.start.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}
        return zeros | {"memory": self.start.expand(num_users, -1, -1)}

    def slots(self, state: State) -> Slots:
        """Each row is its own key and value, valid from the start."""
        memory = state["memory"]
        return Slots(memory, memory, torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device))

    def _ahead(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Project all events, and steer where the controller reads nothing."""
        seen_UTC = self.from_event(segments).flatten(1, 2)
        return self._steered(seen_UTC) if self.from_read is None else (seen_UTC,)

    def _steered(self, seen: Tensor) -> _Steering:
        """Turn the controller's input, [..., C], into what it says."""
        parts = self.steer(self.normalise(seen)).split(self.sizes, dim=-1)
        key, strength, free, write_gate, allocation_gate, erase, write, modes = parts
        key = normalize(key.view(*key.shape[:-1], self.read_heads + 1, self.slot_dim), dim=-1, eps=SMALLEST_NORM)
        return _Steering(
            key=key * (1.0 + softplus(strength))[..., None],
            free=torch.sigmoid(free)[..., None],
            write_gate=torch.sigmoid(write_gate),
            allocation_gate=torch.sigmoid(allocation_gate),
            erase=torch.sigmoid(erase),
            write=write,
            modes=modes.view(*modes.shape[:-1], self.read_heads, 3).softmax(dim=-1) if self.temporal_links else modes,
        )

    def _steered_by_reading(self, state: State, seen_UC: Tensor) -> _Steering:
        assert self.from_read is not None
        return self._steered(seen_UC + self.from_read((state["read"] @ state["memory"]).flatten(1)))

    def _step(self, state: State, valid_U1: Tensor, *given: Tensor) -> State:
        steering = _Steering(*given) if self.from_read is None else self._steered_by_reading(state, *given)
        used = state["usage"]
        kept = reduce(torch.mul, (1.0 - steering.free * state["read"]).unbind(1))
        usage = (used + state["written"] - used * state["written"]) * kept
        content = likeness(steering.key[:, -1:], state["memory"]).softmax(dim=-1).squeeze(1)
        written = steering.write_gate * torch.lerp(content, self._allocation(usage), steering.allocation_gate)
        memory = erase_and_add(state["memory"], written.masked_fill(~valid_U1, 0.0), steering.erase, steering.write)
        read = likeness(steering.key[:, :-1], memory).softmax(dim=-1)
        after = {"usage": usage, "written": written, "read": read}
        if self.temporal_links:
            after |= self._followed(state, written, read, steering.modes)
        valid_U11 = valid_U1[..., None]
        kept_or_new = {
            name: torch.where(valid_U1 if new.dim() == 2 else valid_U11, new, state[name])
            for name, new in after.items()
        }
        return {"memory": memory} | kept_or_new

    def _allocation(self, usage_UK: Tensor) -> Tensor:
        """Return how free each row is when those less used have had their share; they sum to at most 1."""
        own_UK1, other_U1K = usage_UK.detach()[:, :, None], usage_UK.detach()[:, None]
        first_UKK = (other_U1K < own_UK1) | ((other_U1K == own_UK1) & self.earlier)
        # A product as a sum of logarithms; behind a row of no use at all, nothing is left.
        log_usage_UK = usage_UK.clamp(min=_SMALLEST_USAGE).log().masked_fill(usage_UK <= _SMALLEST_USAGE, -1e4)
        return (1.0 - usage_UK) * torch.exp(first_UKK.to(usage_UK.dtype) @ log_usage_UK[..., None]).squeeze(2)

    def _followed(self, state: State, written_UK: Tensor, found_URK: Tensor, modes_UR3: Tensor) -> State:
        """Link what is written to what was written last, and let the read heads follow the links."""
        to_UK1, from_U1K = written_UK[:, :, None], written_UK[:, None]
        links_UKK = (1.0 - to_UK1 - from_U1K) * state["links"] + to_UK1 * state["last"][:, None]
        links_UKK = links_UKK * self.others
        last_UK = (1.0 - written_UK.sum(dim=1, keepdim=True)) * state["last"] + written_UK
        backward_URK, forward_URK = state["read"] @ links_UKK, state["read"] @ links_UKK.mT
        ways_UR3K = torch.stack([backward_URK, found_URK, forward_URK], dim=2)
        return {"links": links_UKK, "last": last_UK, "read": (modes_UR3[:, :, None] @ ways_UR3K).squeeze(2)}
