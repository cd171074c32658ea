"""Makes the red team's data from the evaluation data: `python -m tests.privacy.red_team.make`.

Writes `passages.jsonl.xz` and `vectors.npy` (int8, a scale of its own a row: divide by the length) beside itself. Rows:
the passages that are stored, then those that the adversary has, then queries, each a sentence of a stored passage, then
the same queries as bare words.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from pathlib import Path

import numpy as np

from benchmarks.corpora import EVAL_DATA, read_rows
from holdfast.retrieval.embed import make_embedder

FOLDER = Path(__file__).parent
BOOKS = ("The Wealth of Nations", "On the Origin of Species", "Emma", "Moby-Dick")
NUM_STORED, NUM_OTHER, NUM_QUERIES, NUM_PARAPHRASES = 2400, 900, 300, 150
STOP_WORDS = """
the of and to in a is that it was for as with be by on not he his but at are this have from or had an they which one you
were all their has been would so if no what there when will more we can who than them its into some could my these her
she any may such do did very most i
"""


def main() -> None:
    sources = {"peps": _pep_paragraphs(), **{title: _book_paragraphs(title) for title in BOOKS}}
    rng = random.Random(7)
    share = (NUM_STORED + NUM_OTHER) // len(sources)
    passages = [{"text": text, "source": name} for name, texts in sources.items() for text in rng.sample(texts, share)]
    rng.shuffle(passages)
    sentences = []
    for passage in passages[:NUM_STORED]:
        found = [each for each in re.split(r"(?<=[.!?]) ", passage["text"]) if 30 <= len(each) <= 160]
        if found and len(sentences) < NUM_QUERIES:
            sentences.append(rng.choice(found))
    bare = [" ".join(word for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS) for text in sentences]
    texts = [passage["text"] for passage in passages] + sentences + bare[:NUM_PARAPHRASES]
    vectors = make_embedder(device="cpu").encode(texts)
    rows = np.rint(vectors / np.abs(vectors).max(axis=1, keepdims=True) * 127).astype(np.int8)
    np.save(FOLDER / "vectors.npy", rows)
    lines = "".join(json.dumps(passage, ensure_ascii=False) + "\n" for passage in passages)
    (FOLDER / "passages.jsonl.xz").write_bytes(lzma.compress(lines.encode(), preset=9))


def _pep_paragraphs() -> list[str]:
    paragraphs = []
    for row in read_rows(EVAL_DATA / "python_peps" / "corpus.jsonl.gz"):
        paragraphs += _paragraphs(row["text"])
    prose = [text for text in paragraphs if re.fullmatch(r"[A-Z][\w\s,;:.'\"()?!-]+[.!?]", text)]
    return list(dict.fromkeys(prose))


def _book_paragraphs(title: str) -> list[str]:
    for row in read_rows(EVAL_DATA / "lm_text" / "index_books.jsonl.gz"):
        if row["title"] == title:
            with lzma.open(EVAL_DATA / "lm_text" / row["file"]) as file:
                file.seek(row["offset"])
                return list(dict.fromkeys(_paragraphs(file.read(row["bytes"]).decode())))
    raise LookupError(title)


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of 120 to 420 characters; longer ones in pieces of whole sentences."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        piece = ""
        for sentence in re.split(r"(?<=[.!?]) ", " ".join(block.split())):
            if len(piece) + len(sentence) > 420:
                found.append(piece)
                piece = ""
            piece = f"{piece} {sentence}".strip()
        found.append(piece)
    return [piece for piece in found if 120 <= len(piece) <= 420]


if __name__ == "__main__":
    main()
