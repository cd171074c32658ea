"""Set mode in the transformers engine: documents from the cache, or read into it, and sequences that decode over them.

`mixture` is the fallback for models that cannot read a set: the question is asked behind each document alone, an
ordinary prompt, and the answers' next-token probabilities are averaged. A sum has no order either; but nothing can be
concluded from two documents together, and every document costs a sequence.

Source of the mixture: REPLUG, arXiv 2301.12652, with equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from holdfast.serving.engine.document_cache import HITS, CacheKeys, DocumentCache, DocumentKV, Found
from holdfast.serving.engine.kv_retrieval import RetrievalSequence
from holdfast.serving.engine.protocol import Mode, Reading, ReadReport
from holdfast.serving.engine.set_attention import SetModel, SetSequence
from holdfast.serving.engine.set_prompt import Document, SetPrompt

if TYPE_CHECKING:
    import torch

Streams = Sequence[SetSequence | RetrievalSequence]
"""the sequences of one choice: one over a set or with retrieval, or one for each document of a mixture"""


class SetBatch:
    """The choices being decoded; each takes part in the same steps, and none changes another's bits."""

    def __init__(self, model: SetModel) -> None:
        self._model = model
        self.rows: list[Streams] = []

    def add(self, streams: Streams, num_rows: int) -> list[Streams]:
        """Add `num_rows` choices that go on from `streams`, which the first of them takes; return theirs."""
        made = [streams, *([sequence.fork() for sequence in streams] for _ in range(num_rows - 1))]
        self.rows += made
        return made

    def step(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each choice; return the (rows, vocab) float32 logits of the next, on the CPU."""
        import torch

        flat = [sequence for streams in self.rows for sequence in streams]
        repeated = [token_id for streams, token_id in zip(self.rows, token_ids, strict=True) for _ in streams]
        each = iter(self._model.step(flat, repeated))
        return torch.stack([mixed(torch.stack([next(each) for _ in streams])) for streams in self.rows])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all choices but these."""
        self.rows = [self.rows[row] for row in rows]


class SetReader:
    """Reads the prompts of set mode and of mixtures. Belongs to the engine's worker thread."""

    def __init__(self, model: SetModel, cache: DocumentCache, secret: bytes) -> None:
        self.model = model
        self.cache = cache
        self._secret = secret
        self._keys: CacheKeys | None = None
        self._prefix: tuple[tuple[int, ...], DocumentKV] | None = None

    def fetch(self, tenant: str, prompt: SetPrompt, document: Document) -> tuple[DocumentKV, Found]:
        """Return one document's KV, read now if the cache does not hold it."""
        if self._keys is None:
            self._keys = CacheKeys(self._secret, self.model.identity)
        prefix = self.prefix(prompt)
        key = self._keys.key(tenant, prompt.prefix_ids, document.token_ids)
        compute = partial(self.model.read, prefix, document.token_ids)
        return self.cache.get(key, document.file_id, compute, is_kept_on_disk=not document.is_sealed)

    def prefix(self, prompt: SetPrompt) -> DocumentKV | None:
        """Return the KV of what all documents stand behind, None for nothing; the last one used is kept."""
        if not prompt.prefix_ids:
            return None
        if self._prefix is None or self._prefix[0] != prompt.prefix_ids:
            self._prefix = prompt.prefix_ids, DocumentKV(self.model.read(None, prompt.prefix_ids))
        return self._prefix[1]

    def start(
        self, prompt: SetPrompt, documents: Sequence[DocumentKV], mode: Mode, reading: Reading
    ) -> tuple[Streams, torch.Tensor]:
        """Prefill the question; return its sequences and the (vocab,) float32 logits of the first token."""
        import torch

        prefix = self.prefix(prompt)
        if mode == "set":
            sequence, logits = self.model.start(
                prefix,
                documents,
                prompt.question_ids,
                temperature=reading.document_temperature,
                document_scale=reading.document_scale,
            )
            return [sequence], logits
        started = [self.model.start(prefix, [kv], prompt.question_ids, gap=kv.num_tokens) for kv in documents]
        return [sequence for sequence, _ in started], mixed(torch.stack([logits for _, logits in started]))

    def report(self, prompt: SetPrompt, found: Sequence[Found], mode: Mode, reading: Reading) -> ReadReport:
        """Say how the documents of `prompt` were come by."""
        lens = [len(document.token_ids) for document in prompt.documents]
        written = sum(length for length, where in zip(lens, found, strict=True) if where not in HITS)
        num_questions = 0 if reading.is_prewarm else len(lens) if mode == "mixture" else 1
        return ReadReport(
            mode=mode,
            guarantee="bitwise" if self.model.is_bitwise else "exact-math",
            prefilled_tokens=written + num_questions * len(prompt.question_ids),
            cached_tokens=len(prompt.prefix_ids) + sum(lens) - written,
            cache_write_tokens=written,
            set_digest=prompt.digest,
            documents=tuple((document.digest, len(document.token_ids)) for document in prompt.documents),
            found=tuple(found),
        )


def mixed(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of one choice from its sequences' (num_sequences, vocab): their probabilities' mean."""
    if len(logits) == 1:
        return logits[0]
    return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
