"""A transformers model that reads sets: documents encoded alone, any set of them seen by a question without a copy.

The model's own layers run unchanged; only its attention function is replaced by one that, when it is handed sequences,
lets each of them attend to its parts where they lie (`kernels/attention.py`). Otherwise it is the model's own.

Bits. A document and a question are each one forward pass of their own, so their shapes, and with them every rounding,
are functions of their content. Decoding steps run in tiles of exactly `TILE_ROWS` sequences, filled up with empty ones,
and attention is computed for each sequence by itself; `SetModel.verify` measures that a sequence's logits do not depend
on its place in the tile or on its neighbours before anything is called bitwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from holdfast.errors import InvalidInput
from holdfast.kernels.attention import set_attention
from holdfast.serving.engine.document_cache import DocumentKV
from holdfast.serving.engine.kv_retrieval import RetrievalSequence

if TYPE_CHECKING:
    import torch

TILE_ROWS = 4
"""sequences of one decoding step's forward pass, always"""
MAX_DOCUMENT_LEN = 512
"""tokens; questions stand behind the place where a document of this length would end, whatever is read"""
GROWTH = 64
"""tokens by which a sequence's own buffer grows"""
NAME = "holdfast_set"
FIXED_ROPE = {"default", "linear", "llama3"}
"""kinds whose angles depend on the position alone, not on how long the sequence is"""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""of `verify`, relative to the largest logit: other rounding passes, another attention does not"""


@dataclass(slots=True)
class SetSequence:
    """One sequence under way: what it reads, and the keys and values of its own tokens."""

    prefix: DocumentKV | None
    documents: tuple[DocumentKV, ...]
    position: int
    """of its next token"""
    own: torch.Tensor
    """(num_layers, 2, num_kv_heads, capacity, head_dim)"""
    own_len: int = 0
    temperature: float = 1.0
    document_scale: float = 1.0

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Take in one layer's new keys and values, and return the new tokens' attention, (num_heads, T, head_dim)."""
        end = self.own_len + keys.shape[1]
        self.own[layer, 0, :, self.own_len : end] = keys
        self.own[layer, 1, :, self.own_len : end] = values
        return set_attention(
            query,
            self.prefix.layer(layer) if self.prefix else None,
            [document.layer(layer) for document in self.documents],
            (self.own[layer, 0, :, :end], self.own[layer, 1, :, :end]),
            scale=scale,
            temperature=self.temperature,
            document_scale=self.document_scale,
        )

    def advance(self, num_tokens: int) -> None:
        """Move on, after a forward pass over `num_tokens` new tokens."""
        self.own_len += num_tokens
        self.position += num_tokens

    def fork(self) -> SetSequence:
        """Return a sequence that goes on from here by itself; what is read stays shared."""
        own = self.own.clone()
        return SetSequence(
            self.prefix, self.documents, self.position, own, self.own_len, self.temperature, self.document_scale
        )

    def make_room(self) -> None:
        """Let one more token fit."""
        import torch  # loaded with the model, not on import

        if self.own_len == self.own.shape[3]:
            self.own = torch.nn.functional.pad(self.own, (0, 0, 0, GROWTH))


class SetModel:
    """A loaded causal language model, as set mode uses it. Not thread-safe: the engine's worker owns it."""

    def __init__(self, model: Any) -> None:
        """Put our attention function into `model`, which must be `can_read_sets`."""
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import sdpa_mask

        def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
            sequences: Sequence[SetSequence | RetrievalSequence] | None = options.pop("sequences", None)
            if sequences is None:
                return sdpa_attention_forward(module, query, key, value, mask, **options)
            output = query.new_zeros(query.transpose(1, 2).shape)  # (B, T, num_heads, head_dim)
            for row, sequence in enumerate(sequences):
                attended = sequence.attend(module.layer_idx, query[row], key[row], value[row], options["scaling"])
                output[row] = attended.transpose(0, 1)
            return output, None

        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
        self.model = model
        self.is_verified = False
        self.is_bitwise = False
        """measured by `verify`"""
        config = model.config.get_text_config()
        self._shape = (config.num_hidden_layers, 2, config.num_key_value_heads)
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    @cached_property
    def identity(self) -> dict[str, str]:
        """All that decides the bits of a document's KV but its tokens: weights, settings, number type and machine.

        Cost: hashes every weight, about a second for each GB.
        """
        import torch

        config = self.model.config.to_diff_dict()
        settings = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
        weights = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            weights.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
        return {
            "weights": weights.hexdigest(),
            "config": hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
            "rope": json.dumps(config.get("rope_parameters"), sort_keys=True, default=str),
            "dtype": str(self.model.dtype),
            "device": self.model.device.type,
            "torch": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}",
        }

    def read(self, prefix: DocumentKV | None, token_ids: Sequence[int]) -> torch.Tensor:
        """Return the KV of tokens read alone behind `prefix`: (num_layers, 2, num_kv_heads, L, head_dim)."""
        sequence = self._sequence(prefix, (), prefix.num_tokens if prefix else 0, len(token_ids))
        self._forward([sequence], [token_ids])
        return sequence.own

    def start(
        self,
        prefix: DocumentKV | None,
        documents: Sequence[DocumentKV],
        token_ids: Sequence[int],
        *,
        gap: int | None = None,
        temperature: float = 1.0,
        document_scale: float = 1.0,
    ) -> tuple[SetSequence, torch.Tensor]:
        """Prefill a question behind a set of documents; return the sequence and the (vocab,) float32 logits.

        `gap` is how far behind the prefix the question stands, in positions; None is the constant of set mode.
        """
        position = (prefix.num_tokens if prefix else 0) + (MAX_DOCUMENT_LEN if gap is None else gap)
        sequence = self._sequence(prefix, tuple(documents), position, len(token_ids))
        sequence.temperature, sequence.document_scale = temperature, document_scale
        return sequence, self._forward([sequence], [token_ids])[0]

    def step(self, sequences: Sequence[SetSequence | RetrievalSequence], token_ids: Sequence[int]) -> torch.Tensor:
        """Append one token to each sequence; return the (rows, vocab) float32 logits of the next, on the CPU."""
        import torch

        logits = []
        for first in range(0, len(sequences), TILE_ROWS):
            tile = sequences[first : first + TILE_ROWS]
            for sequence in tile:
                sequence.make_room()
            logits.append(self._forward(tile, [[token_id] for token_id in token_ids[first : first + TILE_ROWS]]))
        return torch.cat(logits)

    def verify(self) -> None:
        """Measure, once, that this model can be read in set mode, and whether its bits keep still.

        Raises:
            InvalidInput: attention by parts does not give what the model's own attention gives.
        """
        import torch

        if self.is_verified:
            return
        ids = [(7 * row) % self.model.config.get_text_config().vocab_size for row in range(3, 35)]
        with torch.inference_mode():
            expected = self.model(torch.tensor([ids], device=self.model.device)).logits[0, -1].float().cpu()
        prefix = DocumentKV(self.read(None, ids[:8]))
        sequence, ours = self.start(prefix, [DocumentKV(self.read(prefix, ids[8:24]))], ids[24:], gap=16)
        error = float((ours - expected).abs().max() / expected.abs().max())
        if not error <= TOLERANCE[str(self.model.dtype).removeprefix("torch.")]:
            raise InvalidInput(
                f"this model's attention cannot be taken apart (relative difference {error:.1g}); use mode 'sequence'",
                param="mode",
            )
        self.is_bitwise = self._is_place_free(
            sequence, [self.start(prefix, [], ids[:row])[0] for row in range(2, 1 + TILE_ROWS)]
        )
        self.is_verified = True

    def _is_place_free(self, sequence: SetSequence, others: Sequence[SetSequence]) -> bool:
        """Return whether a sequence's logits are the same bits alone and in every place among others."""
        import torch

        alone = self.step([sequence.fork()], [1])[0]
        for place in range(TILE_ROWS):
            tile = [other.fork() for other in others]
            tile.insert(place, sequence.fork())
            if not torch.equal(self.step(tile, [int(row == place) for row in range(TILE_ROWS)])[place], alone):
                return False
        return True

    def _sequence(
        self, prefix: DocumentKV | None, documents: tuple[DocumentKV, ...], position: int, capacity: int
    ) -> SetSequence:
        import torch

        shape = (*self._shape, capacity, self._head_dim)
        own = torch.empty(shape, dtype=self.model.dtype, device=self.model.device)
        return SetSequence(prefix, documents, position, own)

    def _forward(
        self, sequences: Sequence[SetSequence | RetrievalSequence], token_ids: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Read new tokens, equally many for each sequence; return the last ones' (rows, vocab) logits on the CPU."""
        import torch

        num_new = len(token_ids[0])
        num_empty = TILE_ROWS - len(sequences) if num_new == 1 else 0
        input_ids = [*token_ids, *[[0]] * num_empty]
        positions = [range(sequence.position, sequence.position + num_new) for sequence in sequences]
        device = self.model.device
        with torch.inference_mode():
            output = self.model(
                input_ids=torch.tensor(input_ids, device=device),
                position_ids=torch.tensor([*map(list, positions), *[[0]] * num_empty], device=device),
                use_cache=False,
                logits_to_keep=1,
                sequences=sequences,
            )
        for sequence in sequences:
            sequence.advance(num_new)
        logits: torch.Tensor = output.logits[: len(sequences), -1].float().cpu()
        return logits


def can_read_sets(model: Any) -> bool:
    """Return whether set mode may work with `model`: full attention in every layer, angles fixed by position."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and getattr(config, "num_key_value_heads", None) is not None
        and rope.get("rope_type") in FIXED_ROPE
        and layer_types == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or hasattr(config, "layer_types"))
        and getattr(config, "attn_logit_softcapping", None) is None
    )
