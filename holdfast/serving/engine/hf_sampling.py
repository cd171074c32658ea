"""Logits to one token: penalties and bias, temperature, nucleus, and a seeded draw, each sequence by itself.

Log probabilities reported are the model's own, before temperature, penalties and bias. A draw takes one uniform number
of the sequence's own generator and inverts the distribution, so a sequence's text does not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.serving.engine.protocol import Sampling

if TYPE_CHECKING:
    import torch

MIN_TEMPERATURE = 1e-4
"""below this, logits divided by it could overflow, and the draw is greedy anyway"""


@dataclass(slots=True)
class Sampler:
    """Chooses the tokens of one sequence."""

    sampling: Sampling
    generator: torch.Generator
    """on the CPU"""
    counts: dict[int, int] = field(default_factory=dict)
    """how often each token was generated"""

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token id from (vocab,) float32 logits on the CPU."""
        import torch  # loaded with the model, not on import

        adjusted = self._adjust(logits)
        if self.sampling.temperature == 0.0:
            token_id = int(adjusted.argmax())
        else:
            probabilities = torch.softmax(adjusted / max(self.sampling.temperature, MIN_TEMPERATURE), dim=-1)
            ordered, ids = probabilities.sort(descending=True, stable=True)
            cumulative = ordered.double().cumsum(0)
            num_kept = int((cumulative < self.sampling.top_p).sum()) + 1
            kept = cumulative[: min(num_kept, len(ids))]
            draw = torch.rand(1, generator=self.generator, dtype=torch.float64) * kept[-1]
            token_id = int(ids[min(int(torch.searchsorted(kept, draw, right=True)), len(kept) - 1)])
        self.counts[token_id] = self.counts.get(token_id, 0) + 1
        return token_id

    def _adjust(self, logits: torch.Tensor) -> torch.Tensor:
        sampling = self.sampling
        bias = {token_id: value for token_id, value in sampling.logit_bias if 0 <= token_id < len(logits)}
        if sampling.presence_penalty or sampling.frequency_penalty:
            for token_id, count in self.counts.items():
                penalty = sampling.presence_penalty + sampling.frequency_penalty * count
                bias[token_id] = bias.get(token_id, 0.0) - penalty
        if not bias:
            return logits
        adjusted = logits.clone()
        for token_id, value in bias.items():
            adjusted[token_id] += value
        return adjusted


def make_sampler(sampling: Sampling, choice: int) -> Sampler:
    """Return the sampler of one choice; choice `c` draws from the generator seeded `seed + c`."""
    import torch

    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed((sampling.seed + choice) % 2**63)
    return Sampler(sampling, generator)
