"""A cache of the last hidden states: an uncompressed window of recent events.

Source: Transformer-XL (Dai et al., ACL 2019, section 3.2, recurrence; section 3.3, relative positions). Layer n turns a
segment's hidden states h^(n-1) into h^n, attending over [SG(m^(n-1)); h^(n-1)], where m^(n-1) are the last M hidden
states before the segment and SG passes no gradient:

    q = W_q h    k = W_k [SG(m); h]    v = W_v [SG(m); h]
    a_ij = q_i.k_j + q_i.W_r R_(i-j) + u.k_j + w.W_r R_(i-j)         for j at or before i (R: sinusoids of the distance)
    h^n = h^(n-1) + W_o softmax_j(a_ij / sqrt(d)) v_j,  then a feed-forward layer is added too

The state is m^0, ..., m^L: the tokens and each layer's output. The slots are m^L, so that the target's attention to
them is one more layer. Differences from the paper: sub-layers are pre-norm and initialised to add zero, so that the
cache initially has the last tokens, which are in the space of the targets; a distance counts the rows of
[cache; segment], padding included; a slot is [h; log(1 + age)] with the age in events. Rows are cached oldest first.
Suffixes: U user, S segment, N event of a segment, M row of the cache, J row of [cache; segment], D dim, H head, E dim
of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rm_rec.config.machines import TransformerXL
from rm_rec.machines.base import MemoryMachine, Slots, State, StateSpec, StateTrace
from rm_rec.machines.recent_rows import RecentRows, recent_rows


class TransformerXLMachine(MemoryMachine):
    """Keeps each user's last hidden states of every layer, and the number of all events."""

    config_type = TransformerXL
    exact_parts = ("count",)
    size_setting = "cache_length"

    def __init__(self, config: TransformerXL, token_dim: int) -> None:
        super().__init__()
        self.cache_length, self.token_dim = config.cache_length, token_dim
        self.slot_dim = token_dim + 1
        self.layers = nn.ModuleList(
            _Layer(token_dim, config.num_heads, config.feedforward_dim) for _ in range(config.num_layers)
        )
        self.log_age: Tensor
        age = torch.arange(config.cache_length - 1, -1, -1, dtype=torch.float32)
        self.register_buffer("log_age", age.log1p(), persistent=False)

    def state_spec(self) -> StateSpec:
        """Return the shapes: hidden states by level (tokens first), oldest first, and the number of all events."""
        return {"hidden": (len(self.layers) + 1, self.cache_length, self.token_dim), "count": ()}

    def initial(self, num_users: int) -> State:
        """Return zeros."""
        return {name: self.log_age.new_zeros(num_users, *shape) for name, shape in self.state_spec().items()}

    def scan(self, state: State, segments: Tensor, valid: Tensor) -> StateTrace:
        """Run each layer over all segments at once: its cache is an output of the layer below, computed before."""
        recent = recent_rows(valid, self.cache_length)
        counts = torch.cat([state["count"][:, None], valid.sum(dim=2).to(segments.dtype)], dim=1).cumsum(dim=1)
        mask_USNJ = self._visible(counts[:, :-1], valid)
        hidden_USND = segments
        levels = [_cache(recent, state["hidden"][:, 0], hidden_USND)]
        for level, layer in enumerate(self.layers, start=1):
            context_USMD = levels[-1][:, :-1].detach()
            hidden_USND = layer(context_USMD, hidden_USND, mask_USNJ)
            levels.append(_cache(recent, state["hidden"][:, level], hidden_USND))
        return {"hidden": torch.stack(levels, dim=2), "count": counts}

    def slots(self, state: State) -> Slots:
        """Return each of the last layer's cached states, with its age, as key and value."""
        last = state["hidden"][:, -1]
        slots = torch.cat([last, self.log_age[:, None].expand(*last.shape[:2], 1)], dim=-1)
        return Slots(slots, slots, self._filled(state["count"]))

    def _filled(self, count: Tensor) -> Tensor:
        oldest = self.cache_length - count.clamp(max=self.cache_length)
        return torch.arange(self.cache_length, device=count.device) >= oldest[..., None]

    def _visible(self, count_US: Tensor, valid_USN: Tensor) -> Tensor:
        """Return the mask of the rows of [cache; segment] that each event attends to: valid ones, up to itself."""
        length = valid_USN.shape[2]
        valid_USJ = torch.cat([self._filled(count_US), valid_USN], dim=2)
        row = torch.arange(self.cache_length + length, device=valid_USN.device)
        last = row[self.cache_length :, None]
        # Padding attends to itself, so that an empty segment gives arbitrary finite values rather than NaN.
        return valid_USJ[:, :, None] & (row < last) | (row == last)


def _cache(recent: RecentRows, cached_UMD: Tensor, hidden_USND: Tensor) -> Tensor:
    """Return the cache at each boundary; only hidden states of the segment that ends there get gradients."""
    rows = recent.take(torch.cat([cached_UMD, hidden_USND.flatten(1, 2)], dim=1))
    return torch.where(recent.is_new[..., None], rows, rows.detach())


class _Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(dim))  # the paper's u
        self.distance_bias = nn.Parameter(torch.zeros(dim))  # the paper's v
        self.attended = nn.Linear(dim, dim)
        self.norm_feedforward = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, feedforward_dim)
        self.narrow = nn.Linear(feedforward_dim, dim)
        for last in (self.attended, self.narrow):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, context_USMD: Tensor, hidden_USND: Tensor, mask_USNJ: Tensor) -> Tensor:
        """Attend from the events of each segment to those before them, in the segment and in the context."""
        both_USJD = self.norm_attention(torch.cat([context_USMD, hidden_USND], dim=2))
        num_events = hidden_USND.shape[2]
        query_USND = self.query(both_USJD[:, :, context_USMD.shape[2] :])
        key_USJD, value_USJD = self.key_value(both_USJD).chunk(2, dim=-1)
        content = self._heads(query_USND + self.content_bias) @ self._heads(key_USJD).transpose(-1, -2)
        position_NJHE = self._distances(num_events, both_USJD.shape[2])
        distance_query = self._heads(query_USND + self.distance_bias)
        logits = content + torch.einsum("ushne,njhe->ushnj", distance_query, position_NJHE)
        logits = (logits / math.sqrt(self.head_dim)).masked_fill(~mask_USNJ[:, :, None], -math.inf)
        read = (logits.softmax(dim=-1) @ self._heads(value_USJD)).transpose(2, 3).flatten(3)
        hidden_USND = hidden_USND + self.attended(read)
        widened = functional.gelu(self.widen(self.norm_feedforward(hidden_USND)))
        return hidden_USND + torch.as_tensor(self.narrow(widened))

    def _heads(self, x_USJD: Tensor) -> Tensor:
        return x_USJD.view(*x_USJD.shape[:-1], self.num_heads, self.head_dim).transpose(2, 3)

    def _distances(self, num_events: int, num_rows: int) -> Tensor:
        """Return projected sinusoids of the distance from each event back to each row; later rows are masked anyway."""
        dim = self.distance.in_features
        device = self.distance.weight.device
        row = torch.arange(num_rows, device=device)
        angle = row[:, None] * 10_000.0 ** (-torch.arange(0, dim, 2, device=device) / dim)
        sinusoid = torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]
        distance_NJ = (row[num_rows - num_events :, None] - row).clamp(min=0)
        projected: Tensor = self.distance(sinusoid)
        return projected.view(num_rows, self.num_heads, self.head_dim)[distance_NJ]
