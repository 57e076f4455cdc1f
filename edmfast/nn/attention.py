"""Multi-head attention with torch's parameters, whose derivatives exist to second order.

torch's fused attention has no second derivative, which training an energy needs. Here `edmfast.ops.attention`
gives it, in memory linear in the number of positions unless a mask differs between queries or is floating.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edmfast import ops
from edmfast._internal.derivatives import is_only_forward, is_transformed
from edmfast.ops.attention.composition import composed


class Attention(nn.MultiheadAttention):
    """Multi-head attention with the arguments, parameters and results of torch.nn.MultiheadAttention.

    query: [B, L, W] with batch_first=True, else [L, B, W] (torch's default), or [L, W]. key, value likewise, of
    widths kdim and vdim. The call takes torch's masks: key_padding_mask [B, S] and attn_mask [L, S] or
    [B heads, L, S], bool with True where a score is left out, or floating and added to the scores.

    torch's own forward runs, with torch's derivatives, where need_weights is true (as it is by default), where
    dropout is active, and with add_bias_kv or add_zero_attn. A query that may attend to no key gives the bias of
    the output. Under torch.func and in forward mode plain formulas give derivatives of any order.
    Raises RuntimeError for a third derivative through the operator.
    Source: Vaswani et al. 2017, arXiv 1706.03762.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (output like query, the weights of the heads or None), as torch.nn.MultiheadAttention does."""
        drops = self.training and self.dropout > 0
        extended = self.bias_k is not None or self.add_zero_attn
        causal = is_causal and attn_mask is not None and key_padding_mask is None
        if need_weights or drops or extended or query.dim() not in (2, 3) or query.is_nested:
            options: dict[str, Any] = {
                "key_padding_mask": key_padding_mask,
                "need_weights": need_weights,
                "attn_mask": attn_mask,
                "average_attn_weights": average_attn_weights,
                "is_causal": is_causal,
            }
            weighted: tuple[Tensor, Tensor | None] = super().forward(query, key, value, **options)
            return weighted
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, which must be given too")
        states = query, key, value
        batched = query.dim() == 3
        if not batched:
            states = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            states = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = (self._heads(tensor) for tensor in self._projected(*states))
        # a causal mask needs no tensor of scores
        masks = _masks(q, key_padding_mask, None if causal else attn_mask)
        attended = _attend(q, k, v, causal, *masks).transpose(1, 2).flatten(2)
        out: Tensor = self.out_proj(attended)
        if not batched:
            return out[0], None
        if not self.batch_first:
            out = out.transpose(0, 1)
        return out, None

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if not self._qkv_same_embed_dim:
            weights: Any = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        elif query is key and key is value:
            # one product reads the states once
            return F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weights = self.in_proj_weight.chunk(3)
        return tuple(map(F.linear, (query, key, value), weights, biases))

    def _heads(self, tensor: Tensor) -> Tensor:
        split: Tensor = torch.unflatten(tensor, -1, (self.num_heads, self.head_dim))
        return split.transpose(1, 2)


def _masks(
    q: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return (key_mask [B, S], attn_mask [.., L, S]) with the conventions of `edmfast.ops.attention`."""
    if attn_mask is not None:
        # torch's modules leave out what is True, and its functions keep it
        attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
        attn_mask = attn_mask.unflatten(0, (len(q), -1)) if attn_mask.dim() == 3 else attn_mask
    if key_padding_mask is None or key_padding_mask.dtype == torch.bool:
        return None if key_padding_mask is None else ~key_padding_mask, attn_mask
    added = key_padding_mask[:, None, None]
    if attn_mask is None:
        return None, added
    if attn_mask.dtype == torch.bool:
        return None, added.masked_fill(~attn_mask, float("-inf"))
    return None, added + attn_mask


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    key_mask: Tensor | None,
    attn_mask: Tensor | None,
) -> Tensor:
    if is_transformed() and not is_only_forward(q, k, v):
        return composed(q, k, v, key_mask, q.shape[-1] ** -0.5, causal, attn_mask)
    return ops.attention(q, k, v, causal=causal, key_mask=key_mask, attn_mask=attn_mask)
