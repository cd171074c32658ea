"""Exact attention over keys that lie in several places, and set attention on top of it.

The softmax over a set of keys splits into parts: each part gives its own weighted mean and the log-sum-exp of its
scores, and those merge into what one softmax over all keys would have given. So keys and values need not be copied
together, and many queries can read the same ones.

In *set attention* every document was encoded alone, behind the same prefix and at the same positions. A query that sees
all of them then depends on which documents there are and not on their order: exactly in real numbers, and bit for bit
when they are handed over in one fixed order, since each step below is a function of its arguments alone.

Source: log-sum-exp merging after FlashAttention, arXiv 2205.14135, section 3; isolated documents at shared positions:
arXiv 2212.10947 and 2406.06581; `temperature` and `document_scale`: arXiv 2502.05431.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from holdfast.errors import ShapeError

if TYPE_CHECKING:
    import torch

    Part = tuple[torch.Tensor, torch.Tensor]
    """keys and values, or an output and its lse"""

Array = npt.NDArray[np.float64]


def set_attention(
    query: torch.Tensor,
    prefix: Part | None,
    documents: Sequence[Part],
    own: Part,
    *,
    scale: float | None = None,
    temperature: float = 1.0,
    document_scale: float = 1.0,
) -> torch.Tensor:
    """Return the attention output of one sequence that reads a set of documents.

    Args:
        query: (num_heads, T, head_dim), the sequence's newest T tokens.
        prefix: (num_kv_heads, P, head_dim) keys and values that all documents saw; None where there is no prefix.
        documents: keys and values of each document, (num_kv_heads, L, head_dim), L may differ. All are seen whole.
        own: (num_kv_heads, S, head_dim), S >= T: the sequence's own tokens, the newest T of them last; causal.
        scale: softmax scale, head_dim ** -0.5 when None.
        temperature, document_scale: APE's T and S; both 1 is exact attention.

    Returns:
        (num_heads, T, head_dim), dtype of `query`.

    Raises:
        ShapeError: heads or head_dim differ, or the number of heads is no multiple of the KV heads'.

    Cost: reads every key and value once; nothing is copied together.
    Reference: set_attention_reference.
    """
    parts = [part for part in (prefix, *documents, own) if part is not None]
    _check(query, parts)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    merged = [attend(query, *own, scale=scale, is_causal=True)]
    if prefix is not None and prefix[0].shape[1]:
        merged.insert(0, attend(query, *prefix, scale=scale))
    read = [attend(query, *part, scale=scale / temperature) for part in documents if part[0].shape[1]]
    if read:
        output, lse = merge(read)
        merged.insert(-1, (output, lse * (document_scale * temperature)))
    return merge(merged)[0].to(query.dtype)


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, scale: float, is_causal: bool = False
) -> Part:
    """Return one part's softmax-weighted mean of values and its log-sum-exp.

    Args:
        query: (num_heads, T, head_dim).
        keys, values: (num_kv_heads, L, head_dim), L >= 1.
        scale: factor of the scores.
        is_causal: query t of T sees the first L - T + t + 1 keys.

    Returns:
        output: (num_heads, T, head_dim), dtype of `query`.
        lse: (num_heads, T) float32.
    """
    import torch  # heavy: loaded with the first model, not on import

    num_heads, T, head_dim = query.shape
    num_kv_heads, L, _ = keys.shape
    group = num_heads // num_kv_heads
    packed = query.reshape(1, num_kv_heads, group * T, head_dim)  # the heads of a group read the same keys
    mask = None
    if is_causal and T > 1:
        hidden = torch.ones(T, L, dtype=torch.bool, device=query.device).triu(L - T + 1)
        mask = torch.zeros(T, L, dtype=query.dtype, device=query.device).masked_fill(hidden, -math.inf).repeat(group, 1)
    if query.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            packed, keys[None], values[None], 0.0, False, attn_mask=mask, scale=scale
        )
    else:
        scores = (packed @ keys[None].transpose(-1, -2)).float() * scale
        scores = scores if mask is None else scores + mask
        lse = torch.logsumexp(scores, dim=-1)
        output = torch.exp(scores - lse[..., None]).to(query.dtype) @ values[None]
    return output.reshape(num_heads, T, head_dim), lse.reshape(num_heads, T)


def causal_attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, scale: float) -> Part:
    """`attend` with `is_causal`, without a mask in memory where every one of the L positions asks."""
    import torch

    if query.shape[1] != keys.shape[1] or query.device.type != "cpu":
        return attend(query, keys, values, scale=scale, is_causal=True)
    group = len(query) // len(keys)
    own_keys, own_values = (part.repeat_interleave(group, dim=0) if group > 1 else part for part in (keys, values))
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[None], own_keys[None], own_values[None], 0.0, True, scale=scale
    )
    return output[0], lse[0]


def merge(parts: Sequence[Part]) -> Part:
    """Return the output and lse of attention over all keys of `parts`, each an output and its lse; float32.

    The sums run in the order of `parts`.
    """
    import torch

    if len(parts) == 1:
        return parts[0][0].float(), parts[0][1]
    lses = torch.stack([lse for _, lse in parts])
    largest = lses.amax(dim=0)
    weights = torch.exp(lses - largest)
    total = weights.sum(dim=0)
    weighted = torch.stack([output.float() for output, _ in parts]) * weights[..., None]
    return weighted.sum(dim=0) / total[..., None], largest + torch.log(total)


def set_attention_reference(
    query: Array,
    prefix: tuple[Array, Array] | None,
    documents: Sequence[tuple[Array, Array]],
    own: tuple[Array, Array],
    *,
    scale: float | None = None,
    temperature: float = 1.0,
    document_scale: float = 1.0,
) -> Array:
    """`set_attention` as one softmax over all keys laid side by side, in float64."""
    num_heads, T, head_dim = query.shape
    group = num_heads // own[0].shape[0]
    scale = head_dim**-0.5 if scale is None else scale
    output = np.empty_like(query, dtype=np.float64)
    for head in range(num_heads):
        before = [prefix] if prefix is not None else []
        scores, values = [], []
        for keys, part_values in [*before, own]:
            scores.append(query[head] @ keys[head // group].T * scale)
            values.append(part_values[head // group])
        S = own[0].shape[1]
        scores[-1] = np.where(np.tri(T, S, S - T, dtype=bool), scores[-1], -np.inf)
        if sum(keys.shape[1] for keys, _ in documents):
            read = np.concatenate([query[head] @ keys[head // group].T for keys, _ in documents], axis=1)
            read = read * scale / temperature
            lse = np.log(np.exp(read - read.max(1, keepdims=True)).sum(1, keepdims=True)) + read.max(1, keepdims=True)
            scores.append(read - lse + lse * document_scale * temperature)
            values.append(np.concatenate([part_values[head // group] for _, part_values in documents]))
        joined = np.concatenate(scores, axis=1)
        weights = np.exp(joined - joined.max(axis=1, keepdims=True))
        output[head] = weights / weights.sum(axis=1, keepdims=True) @ np.concatenate(values)
    return output


def set_mask(prefix_len: int, document_lens: Sequence[int], own_len: int) -> npt.NDArray[np.bool_]:
    """Return the (N, N) mask under which one forward pass over everything equals set attention; True is visible.

    The rows are the prefix, each document, and the sequence's own tokens. Positions go with `set_positions`.
    """
    segments = np.repeat(np.arange(len(document_lens) + 2), [prefix_len, *document_lens, own_len])
    own = len(document_lens) + 1
    sees = (segments[None, :] == 0) | (segments[:, None] == segments[None, :]) | (segments[:, None] == own)
    visible: npt.NDArray[np.bool_] = sees & np.tri(len(segments), dtype=bool)
    return visible


def set_positions(
    prefix_len: int, document_lens: Sequence[int], own_len: int, max_document_len: int
) -> npt.NDArray[np.int64]:
    """Return the (N,) positions that go with `set_mask`: documents start together, own tokens at a constant offset."""
    starts = [0, *[prefix_len] * len(document_lens), prefix_len + max_document_len]
    lens = [prefix_len, *document_lens, own_len]
    return np.concatenate([start + np.arange(length) for start, length in zip(starts, lens, strict=True)])


def _check(query: torch.Tensor, parts: Sequence[Part]) -> None:
    num_heads, T, head_dim = query.shape
    for keys, values in parts:
        if keys.shape != values.shape or keys.ndim != 3 or keys.shape[2] != head_dim or num_heads % keys.shape[0]:
            raise ShapeError(
                f"keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit queries {tuple(query.shape)}; "
                "all are (heads, tokens, head_dim), and query heads are a multiple of KV heads"
            )
    if not 1 <= T <= parts[-1][0].shape[1]:
        raise ShapeError(f"{T} new tokens, but {parts[-1][0].shape[1]} own keys; the new tokens' keys come last")
