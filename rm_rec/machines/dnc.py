"""The Differentiable Neural Computer's memory (Graves et al., Nature 538, 2016, "Methods").

A controller receives each event x, and the vectors r that its R read heads read at the previous event. It controls them
and one write head; (.) is a linear map of h:

    h     = LayerNorm(A x + B r)                            hidden state of the controller
    u_k  <- (u_k + w_k - u_k w_k) prod_R (1 - f r_k)        usage: rows written to and not freed, f = sigmoid(.)
    a_k   = (1 - u_k) prod_(rows j with less usage) u_j     allocation: the least used row first
    c_k   = softmax_k(beta cos(key, m_k))                   content, beta = 1 + softplus(.)
    w     = g_w (g_a a + (1 - g_a) c)                       weights of the write head, gates g = sigmoid(.)
    m_k  <- m_k * (1 - w_k erase) + w_k write               erase = sigmoid(.)
    r_k   = softmax_k(beta cos(key, m_k))                   weights of each read head, after the write

With temporal links (off by default: K^2 numbers per user) the read heads can also follow the order of writing:

    L_ij <- (1 - w_i - w_j) L_ij + w_i p_j, L_ii = 0        degree to which row i was written right after row j
    p    <- (1 - sum_k w_k) p + w                           degree to which a row was written last
    r     = pi_1 L^T r + pi_2 c + pi_3 L r                  pi = softmax(.)

Our choices where the paper leaves it open: a feed-forward controller (an LSTM's state would need bytes of the user's
state), with the layer normalisation of Franke, Niehues and Waibel (2018) for stability; learned initial rows (the
cosine is undefined for zeros); rows of equal usage are allocated in their order. Initialisation for training: keys and
`write` are the event itself, and `erase` and f are small. The model's reader reads the rows for clicks; the read heads
free rows, and serve the controller with `controller_reads` (off by default: then the parameters of all heads are
computed for all events at once).
Suffixes: U user, T event, H head (the readers, then the writer), R read head, K slot, D slot dim, C controller.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from rm_rec.config.machines import DncMemory
from rm_rec.machines.addressing import SMALLEST_NORM, erase_and_add, scaled_cosine
from rm_rec.machines.base import Slots, State, StateSpec
from rm_rec.machines.recurrence import EventLoopMachine

_SMALLEST_USAGE = 1e-30  # lower bound before a logarithm


class _HeadParameters(NamedTuple):
    """The controller's outputs at an event or, with one more axis, at each of some events."""

    key: Tensor  # of each head, with norm beta
    free: Tensor
    write_gate: Tensor
    allocation_gate: Tensor
    erase: Tensor
    write: Tensor
    modes: Tensor  # of each read head: backward, content, forward; empty without links


class DncMachine(EventLoopMachine):
    """A matrix of rows per user, written to by content or where rows are free."""

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
        self._initialise(config.keep_bias)

    @torch.no_grad()
    def _initialise(self, keep_bias: float) -> None:
        """Initialise heads to select rows similar to the event, and the write head to add the event there."""
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
        """Return the shapes: rows, their usage, each head's weights, and the temporal links if there are any."""
        slots = self.num_slots
        parts: StateSpec = {
            "memory": (slots, self.slot_dim),
            "usage": (slots,),
            "written": (slots,),
            "read": (self.read_heads, slots),
        }
        return parts | ({"links": (slots, slots), "last": (slots,)} if self.temporal_links else {})

    def initial(self, num_users: int) -> State:
        """Return the learned initial rows, the same for every user, and zeros for everything else."""
        zeros = {name: self.start.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}
        return zeros | {"memory": self.start.expand(num_users, -1, -1)}

    def slots(self, state: State) -> Slots:
        """Return each row as key and value; all are valid."""
        memory = state["memory"]
        return Slots(memory, memory, torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device))

    def _inputs(self, state: State, segments: Tensor, valid: Tensor) -> Sequence[Tensor]:
        """Project all events; if the controller does not read, compute the head parameters too."""
        projected_UTC = self.from_event(segments).flatten(1, 2)
        return self._head_parameters(projected_UTC) if self.from_read is None else (projected_UTC,)

    def _head_parameters(self, projected: Tensor) -> _HeadParameters:
        """Compute the controller's outputs from its projected inputs [..., C]."""
        parts = self.steer(self.normalise(projected)).split(self.sizes, dim=-1)
        key, strength, free, write_gate, allocation_gate, erase, write, modes = parts
        key = normalize(key.view(*key.shape[:-1], self.read_heads + 1, self.slot_dim), dim=-1, eps=SMALLEST_NORM)
        return _HeadParameters(
            key=key * (1.0 + softplus(strength))[..., None],
            free=torch.sigmoid(free)[..., None],
            write_gate=torch.sigmoid(write_gate),
            allocation_gate=torch.sigmoid(allocation_gate),
            erase=torch.sigmoid(erase),
            write=write,
            modes=modes.view(*modes.shape[:-1], self.read_heads, 3).softmax(dim=-1) if self.temporal_links else modes,
        )

    def _head_parameters_with_read(self, state: State, projected_UC: Tensor) -> _HeadParameters:
        assert self.from_read is not None
        return self._head_parameters(projected_UC + self.from_read((state["read"] @ state["memory"]).flatten(1)))

    def _step(self, state: State, valid_U1: Tensor, *inputs: Tensor) -> State:
        heads = _HeadParameters(*inputs) if self.from_read is None else self._head_parameters_with_read(state, *inputs)
        used = state["usage"]
        retained = reduce(torch.mul, (1.0 - heads.free * state["read"]).unbind(1))
        usage = (used + state["written"] - used * state["written"]) * retained
        content = scaled_cosine(heads.key[:, -1:], state["memory"]).softmax(dim=-1).squeeze(1)
        written = heads.write_gate * torch.lerp(content, self._allocation(usage), heads.allocation_gate)
        memory = erase_and_add(state["memory"], written.masked_fill(~valid_U1, 0.0), heads.erase, heads.write)
        read = scaled_cosine(heads.key[:, :-1], memory).softmax(dim=-1)
        after = {"usage": usage, "written": written, "read": read}
        if self.temporal_links:
            after |= self._with_links(state, written, read, heads.modes)
        valid_U11 = valid_U1[..., None]
        old_or_new = {
            name: torch.where(valid_U1 if new.dim() == 2 else valid_U11, new, state[name])
            for name, new in after.items()
        }
        return {"memory": memory} | old_or_new

    def _allocation(self, usage_UK: Tensor) -> Tensor:
        """Return the allocation weights of the rows, the least used first; they sum to at most 1."""
        own_UK1, other_U1K = usage_UK.detach()[:, :, None], usage_UK.detach()[:, None]
        first_UKK = (other_U1K < own_UK1) | ((other_U1K == own_UK1) & self.earlier)
        # The product is a sum of logarithms; a row without any usage leaves 0 for all rows after it.
        log_usage_UK = usage_UK.clamp(min=_SMALLEST_USAGE).log().masked_fill(usage_UK <= _SMALLEST_USAGE, -1e4)
        return (1.0 - usage_UK) * torch.exp(first_UKK.to(usage_UK.dtype) @ log_usage_UK[..., None]).squeeze(2)

    def _with_links(self, state: State, written_UK: Tensor, content_URK: Tensor, modes_UR3: Tensor) -> State:
        """Update the temporal links, and combine the read heads' content weights with those of following the links."""
        to_UK1, from_U1K = written_UK[:, :, None], written_UK[:, None]
        links_UKK = (1.0 - to_UK1 - from_U1K) * state["links"] + to_UK1 * state["last"][:, None]
        links_UKK = links_UKK * self.others
        last_UK = (1.0 - written_UK.sum(dim=1, keepdim=True)) * state["last"] + written_UK
        backward_URK, forward_URK = state["read"] @ links_UKK, state["read"] @ links_UKK.mT
        weights_UR3K = torch.stack([backward_URK, content_URK, forward_URK], dim=2)
        return {"links": links_UKK, "last": last_UK, "read": (modes_UR3[:, :, None] @ weights_UR3K).squeeze(2)}
