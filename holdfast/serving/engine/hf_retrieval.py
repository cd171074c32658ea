"""KV retrieval in the transformers engine: prompts prefilled exactly, then decoded over what each head retrieves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.serving.engine.kv_retrieval import KvOptions, KvStats, RetrievalSequence, make_angles, make_sequence
from holdfast.serving.engine.protocol import KvReport

if TYPE_CHECKING:
    import torch


class RetrievalReader:
    """Starts sequences with retrieval, and adds up what they did. Belongs to the engine's worker thread.

    Args:
        model: a loaded model whose attention function takes sequences (`SetModel`).
        memory_bytes: of cold keys and values of one request; what needs more lies on disk.
        folder: for that; None keeps everything in memory.
        break_even: cold tokens below which all of them are read.
    """

    def __init__(self, model: Any, memory_bytes: int, folder: Path | None, break_even: int) -> None:
        self.totals = KvStats()
        self._model = model
        self._memory_bytes = memory_bytes
        self._folder = folder
        self._break_even = break_even
        self._angles = make_angles(model)

    def options(self, budget: int, *, is_sealed: bool) -> KvOptions:
        """Return how one request is decoded; of sealed texts nothing lies on disk."""
        folder = None if is_sealed else self._folder
        return KvOptions(budget, self._memory_bytes, folder, break_even=self._break_even)

    def start(
        self, prompt_ids: Sequence[int], max_new_tokens: int, options: KvOptions
    ) -> tuple[RetrievalSequence, torch.Tensor]:
        """Prefill a prompt; return its sequence and the (vocab,) float32 logits of the first token, on the CPU."""
        import torch
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        input_ids = torch.tensor([list(prompt_ids)], device=self._model.device)
        with torch.inference_mode():
            output = self._model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
            sequence = make_sequence(layers, max_new_tokens, options, self._angles)
        logits: torch.Tensor = output.logits[0, -1].float().cpu()
        return sequence, logits

    def finish(self, sequence: RetrievalSequence) -> KvReport:
        """Count a sequence that is done, and return what it did."""
        stats = sequence.report()
        self.totals.add(stats)
        decisions = max(1, stats.num_decisions)
        return KvReport(
            budget=sequence.options.budget,
            trigger_rate=stats.num_retrievals / decisions,
            sampled_mass=stats.sampled_mass / decisions,
            error=stats.error / decisions,
            index_bytes=stats.index_bytes,
            memory_bytes=stats.memory_bytes,
            disk_bytes=stats.disk_bytes,
        )
