"""Learned query tokens that attend to each segment's events and are carried over to the next segment.

After compressors of long histories that read each segment into a few learned tokens, which the next segment's read
starts from: C-Former, VISTA (Meta, arXiv 2510.22049) and PerSRec (Meta, arXiv 2601.03479). Their equations were not
available in full, so all choices are stated here. Token k is m_k = RMS(a_k + c_k), where a_k is a learned query and c_k
the content of a user's token, initially 0; a segment's events are f_n; x_j runs over [m_1 ... m_K; f_1 ... f_N]:

    r_k = sum_j softmax_j(q(m_k) . k(x_j) / sqrt(D) + [n_k if x_j is a token]) v(x_j)
    h_k = g_k c_k + r_k                                           g_k = sigmoid(keep_k), which keeps c_k bounded
    c_k <- h_k + W_2 gelu(W_1 RMS(a_k + h_k))

A reader sees a_k + c_k as key and c_k as value. RMS divides by the root mean square. It is applied to tokens when they
are read, not to the stored content: with c_k normalised at each write, training never found the planted event of
tests/rm_rec/test_learning.py (AUC .5 for 3 seeds, whatever the scale and sharpness); without, it does (.84 to 1).
Tokens and events have separate key and value projections. Those of events are initialised to the identity, and the
queries to 2 sqrt(D) times it, so that each token attends to events similar to itself, sharply (without the factor 2,
one seed in three did not find the event). Those of tokens, and W_2, are initialised to zero: tokens then take a part of
the softmax and add nothing; n_k lets training choose how large this part is.
Suffixes: U user, S segment, N event, K token, J token or event, D dim.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.machines import LearnedQueries
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace


class LearnedQueriesMachine(MemoryMachine):
    """A few tokens per user; each attends to all tokens and to the segment, and adds the result to its content."""

    config_type = LearnedQueries

    def __init__(self, config: LearnedQueries, token_dim: int) -> None:
        super().__init__()
        dim = self.slot_dim = config.slot_dim
        self.num_slots = config.num_slots
        self.learned = nn.Parameter(torch.randn(config.num_slots, dim))
        self.query = nn.Linear(dim, dim, bias=False)
        self.event_key = nn.Linear(token_dim, dim, bias=False)
        self.event_value = nn.Linear(token_dim, dim, bias=False)
        self.token_key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.token_logit = nn.Parameter(torch.zeros(config.num_slots, 1))
        self.keep = nn.Parameter(torch.full((config.num_slots, 1), config.keep_bias))
        self.widen = nn.Linear(dim, config.feedforward_dim)
        self.narrow = nn.Linear(config.feedforward_dim, dim)
        for projection in (self.query, self.event_key, self.event_value):
            nn.init.eye_(projection.weight)
        with torch.no_grad():
            self.query.weight.mul_(2.0 * math.sqrt(dim))
        for weight in (self.token_key_value.weight, self.narrow.weight, self.narrow.bias):
            nn.init.zeros_(weight)

    def state_spec(self) -> StateSpec:
        """Return the shape of the tokens' content."""
        return {"content": (self.num_slots, self.slot_dim)}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {"content": self.learned.new_zeros(num_users, self.num_slots, self.slot_dim)}

    def write(self, state: State, segment: Tensor, valid: Tensor) -> State:
        """Compress one segment into each user's tokens."""
        return {"content": self._compress(state["content"], self.event_key(segment), self.event_value(segment), valid)}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Project all segments at once; only the recurrence is a loop."""
        keys, values = self.event_key(segments).unbind(1), self.event_value(segments).unbind(1)
        content = [state["content"]]
        for key, value, real in zip(keys, values, valid.unbind(1), strict=True):
            content.append(self._compress(content[-1], key, value, real))
        return {"content": torch.stack(content, dim=1)}

    def slots(self, state: State) -> Slots:
        """Return each token's content plus its query as key, and its content as value; all are valid."""
        content = state["content"]
        valid = torch.ones(content.shape[:2], dtype=torch.bool, device=content.device)
        return Slots(content + self.learned, content, valid)

    def _compress(self, content_UKD: Tensor, key_UND: Tensor, value_UND: Tensor, valid_UN: Tensor) -> Tensor:
        tokens_UKD = _normalised(self.learned + content_UKD)
        own_key_UKD, own_value_UKD = self.token_key_value(tokens_UKD).chunk(2, dim=-1)
        query_UKD = self.query(tokens_UKD) / math.sqrt(self.slot_dim)
        token_logits_UKK = query_UKD @ own_key_UKD.transpose(1, 2) + self.token_logit
        event_logits_UKN = (query_UKD @ key_UND.transpose(1, 2)).masked_fill(~valid_UN[:, None], -math.inf)
        weight_UKJ = torch.cat([token_logits_UKK, event_logits_UKN], dim=2).softmax(dim=-1)
        read_UKD = weight_UKJ @ torch.cat([own_value_UKD, value_UND], dim=1)
        summed_UKD = torch.sigmoid(self.keep) * content_UKD + read_UKD
        hidden_UKD = functional.gelu(self.widen(_normalised(self.learned + summed_UKD)))
        compressed_UKD = summed_UKD + self.narrow(hidden_UKD)
        return torch.where(valid_UN.any(dim=1)[:, None, None], compressed_UKD, content_UKD)


def _normalised(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-6)
