"""Token ids of one choice to streamed deltas: text, log probabilities, stop strings and the reason to finish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.serving.engine.protocol import Delta, FinishReason, Sampling, TokenLogprob
from holdfast.serving.engine.stop_text import StopText

if TYPE_CHECKING:
    import torch

_INCOMPLETE = "\ufffd"
_WINDOW = 8


class ChoiceStream:
    """Collects the tokens of one choice.

    A character spread over several tokens appears with the last of them. Text is decoded in the light of the few
    tokens before it, since tokenizers join words by context.
    """

    def __init__(
        self, tokenizer: Any, sampling: Sampling, choice: int, max_tokens: int, eos_ids: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._choice = choice
        self._max_tokens = max_tokens
        self._eos_ids = eos_ids
        self._stop = StopText(sampling.stop)
        self._ids: list[int] = []
        self._num_shown = 0
        self._num_reported = 0
        self._logprobs: list[TokenLogprob] = []
        self.is_finished = False

    def push(self, token_id: int, logits: torch.Tensor) -> Delta:
        """Take the next token, chosen from (vocab,) `logits`; return what can be shown now (perhaps nothing)."""
        finish_reason: FinishReason | None = None
        text = ""
        if token_id in self._eos_ids:
            finish_reason = "stop"
            text = self._stop.feed(self._new_text(is_last=True)) + self._stop.flush()
        else:
            self._ids.append(token_id)
            if self._sampling.logprobs:
                self._logprobs.append(self._logprob(token_id, logits))
            is_last = len(self._ids) >= self._max_tokens
            text = self._stop.feed(self._new_text(is_last=is_last))
            if self._stop.is_stopped:
                finish_reason = "stop"
            elif is_last:
                finish_reason = "length"
                text += self._stop.flush()
        self.is_finished = finish_reason is not None
        return self._delta(text, finish_reason)

    def _delta(self, text: str, finish_reason: FinishReason | None) -> Delta:
        """Tokens are reported with the text that they became, or at the end."""
        if not text and finish_reason is None:
            return Delta(choice=self._choice)
        num_tokens = len(self._ids) - self._num_reported
        self._num_reported = len(self._ids)
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Delta(self._choice, text, num_tokens, logprobs, finish_reason=finish_reason)

    def _new_text(self, *, is_last: bool) -> str:
        before = self._ids[max(0, self._num_shown - _WINDOW) : self._num_shown]
        old = self._decode(before)
        text = self._decode(before + self._ids[self._num_shown :])
        if text.endswith(_INCOMPLETE) and not is_last:
            return ""
        self._num_shown = len(self._ids)
        return text[len(old) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _logprob(self, token_id: int, logits: torch.Tensor) -> TokenLogprob:
        logprobs = logits.log_softmax(dim=-1)
        best = logprobs.topk(min(self._sampling.top_logprobs, len(logprobs)))
        top = tuple(
            (self._tokenizer.decode([int(row)]), float(value))
            for row, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return TokenLogprob(self._tokenizer.decode([token_id]), float(logprobs[token_id]), top)
