"""Sequences decoded together: one left-padded KV cache that they join and leave at token boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class DecodeBatch:
    """The KV cache of all running sequences, one row each.

    Pads are on the left and masked, and positions count from a sequence's own first token, so that a row computes what
    it would compute alone (up to the rounding of differently shaped matrix products).
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self._mask: torch.Tensor | None = None
        """(rows, cached tokens) int64, 0 at pads"""

    def prefill(self, prompt_ids: Sequence[int], num_rows: int) -> torch.Tensor:
        """Read a prompt and add `num_rows` rows that continue it; return its (vocab,) float32 logits, on the CPU."""
        import torch
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        input_ids = torch.tensor([list(prompt_ids)], device=self._model.device)
        with torch.inference_mode():
            output = self._model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        mask = torch.ones((num_rows, len(prompt_ids)), dtype=torch.int64, device=self._model.device)
        for layer in cache.layers:
            layer.keys = layer.keys.expand(num_rows, -1, -1, -1)
            layer.values = layer.values.expand(num_rows, -1, -1, -1)
        self._join(cache, mask)
        logits: torch.Tensor = output.logits[0, -1].float().cpu()
        return logits

    def step(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each row; return the (rows, vocab) float32 logits of the next, on the CPU."""
        import torch

        assert self._mask is not None
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([[token_id] for token_id in token_ids], device=self._model.device),
                attention_mask=self._mask,
                position_ids=self._mask.sum(dim=1, keepdim=True) - 1,
                past_key_values=self._cache,
                use_cache=True,
            )
        logits: torch.Tensor = output.logits[:, -1].float().cpu()
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the pads that no remaining row needs."""
        if not rows or self._mask is None:
            self._cache = self._mask = None
            return
        mask = self._mask[list(rows)]
        num_pads = int((mask.sum(dim=0) == 0).sum())
        self._mask = mask[:, num_pads:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[list(rows), :, num_pads:]
            layer.values = layer.values[list(rows), :, num_pads:]

    def _join(self, cache: Any, mask: torch.Tensor) -> None:
        import torch

        if self._mask is None:
            self._cache, self._mask = cache, mask
            return
        cached_len = max(self._mask.shape[1], mask.shape[1])
        old_pads, new_pads = cached_len - self._mask.shape[1], cached_len - mask.shape[1]
        pad = torch.nn.functional.pad
        self._mask = torch.cat([pad(self._mask, (old_pads, 0)), pad(mask, (new_pads, 0))])
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys = torch.cat([pad(old.keys, (0, 0, old_pads, 0)), pad(new.keys, (0, 0, new_pads, 0))])
            old.values = torch.cat([pad(old.values, (0, 0, old_pads, 0)), pad(new.values, (0, 0, new_pads, 0))])
