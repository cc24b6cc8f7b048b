"""Attention with a null key, so that it is defined without any other key.

Suffixes: B block, Q query, K key, D dim, H head.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class NullAttention(nn.Module):
    """Multi-head attention with an additional null key: its logit is learned, and its value is zero.

    Without any other key the answer is zero. The null key's attention weight also tells the total weight of the other
    keys, which a plain softmax loses: three equal keys give the same answer as one. This total is returned beside the
    answer, as `log(1 + sum(exp(logit - null)))`.
    """

    def __init__(self, query_dim: int, key_dim: int, answer_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(query_dim, answer_dim, bias=False)
        self.key = nn.Linear(key_dim, answer_dim, bias=False)
        self.value = nn.Linear(key_dim, answer_dim, bias=False)
        self.null_logit = nn.Parameter(torch.zeros(num_heads))
        # Targets and events share embedding tables, so with identity projections a target attends to similar events
        # from the start. With random projections, training made no progress for one to three epochs.
        for projection in (self.query, self.key, self.value):
            nn.init.eye_(projection.weight)

    @property
    def num_features(self) -> int:
        """Size of an answer: the attended values, and the total weight of each head's keys."""
        return self.value.out_features + self.num_heads

    def project(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projected keys and values, to project them once, before they are arranged in blocks."""
        return self.key(keys), self.value(keys)

    def bias(
        self, valid: Bool[Tensor, "block key"], log_weight: Float[Tensor, "block key"] | None = None
    ) -> Float[Tensor, "block head 1 key_and_null"]:
        """Return the bias for `forward`: the null key's logit, then `log_weight` (default 0), or -inf if not valid."""
        return key_bias(self.null_logit, valid, log_weight)

    def forward(
        self,
        queries: Float[Tensor, "block query query_dim"],
        keys: Float[Tensor, "block key answer_dim"],
        values: Float[Tensor, "block key answer_dim"],
        bias: Float[Tensor, "block head #query key_and_null"],
    ) -> Float[Tensor, "block query features"]:
        """Attend from each query to its block's projected keys.

        `bias` is added to the logits: first the null key's, then each key's, which is -inf for padding.
        """
        return attend(self.query(queries), keys, values, bias)


def key_bias(
    null_logit: Float[Tensor, " head"],
    valid: Bool[Tensor, "block key"],
    log_weight: Float[Tensor, "block key"] | None = None,
) -> Float[Tensor, "block head 1 key_and_null"]:
    """Return the bias for `attend`: the null key's logit, then `log_weight` (default 0), or -inf if not valid."""
    bias = torch.zeros(valid.shape, device=valid.device) if log_weight is None else log_weight
    bias = bias.masked_fill(~valid, -math.inf)
    null = null_logit.expand(len(valid), -1)[..., None]
    return torch.cat([null, bias[:, None].expand(-1, len(null_logit), -1)], dim=-1)[:, :, None]


def attend(
    queries: Float[Tensor, "block query answer_dim"],
    keys: Float[Tensor, "block key answer_dim"],
    values: Float[Tensor, "block key answer_dim"],
    bias: Float[Tensor, "block head #query key_and_null"],
) -> Float[Tensor, "block query features"]:
    """Attend from projected queries to projected keys and the null key, whose value is zero.

    Returns the attended values, then each head's `log(1 + sum(exp(logit - null)))`, the total weight of the keys.
    """
    B, Q, K, heads = len(keys), queries.shape[1], keys.shape[1], bias.shape[1]
    q_BHQD = queries.view(B, Q, heads, -1).transpose(1, 2)
    k_BHDK = functional.pad(keys, (0, 0, 1, 0)).view(B, K + 1, heads, -1).permute(0, 2, 3, 1)
    scale = 1.0 / math.sqrt(q_BHQD.shape[-1])
    weight_BHQK = torch.add((q_BHQD * scale) @ k_BHDK, bias).softmax(dim=-1)
    v_BHKD = values.view(B, K, heads, -1).transpose(1, 2)
    answer_BQHD = (weight_BHQK[..., 1:] @ v_BHKD).transpose(1, 2)
    total_BQH = -weight_BHQK[..., 0].transpose(1, 2).clamp(min=1e-6).log()
    return torch.cat([answer_BQHD.flatten(2), total_BQH], dim=-1)
