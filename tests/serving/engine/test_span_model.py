"""What the span network reads, and that its weights come back as they were stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast.errors import IntegrityError
from holdfast.retrieval.embed import load_bundled_encoder
from holdfast.serving.engine.span_model import (
    CLS,
    SEP,
    load_span_network,
    make_span_input,
    make_span_network,
    store_span_network,
)


def test_question_heading_and_passage_stand_between_separators() -> None:
    read = make_span_input([7, 8], [5], [1, 2, 3])
    assert read.ids == (CLS, 7, 8, SEP, 5, SEP, 1, 2, 3, SEP)
    assert read.types == (0, 0, 0, 0, 1, 1, 1, 1, 1, 1)
    assert read.ids[read.passage_start : -1] == (1, 2, 3)
    bare = make_span_input([7], [], [1])
    assert bare.ids == (CLS, 7, SEP, 1, SEP)
    assert bare.ids[bare.passage_start] == 1


def test_the_tokenizer_marks_what_the_network_reads() -> None:
    _, tokenizer = load_bundled_encoder()
    ids = tokenizer.encode("one", "two").ids
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert make_span_input([ids[1]], [], [ids[3]]).ids == tuple(ids)


def test_stored_weights_come_back_and_leave_the_embeddings_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_span_network(load_bundled_encoder()[0])
    for part in network.stored().values():
        for weight in part.parameters():
            weight.data = (weight + 0.01 * torch.randn_like(weight)).to(torch.bfloat16).float()
    path = tmp_path / "spans.safetensors"
    store_span_network(network, path)
    assert path.stat().st_size < 25 * 2**20
    loaded = load_span_network(load_bundled_encoder()[0], path)
    ids = torch.tensor([make_span_input([2000, 2001], [], [2002, 2003]).ids])
    with torch.inference_mode():
        before, after = (each.scores(ids, torch.zeros_like(ids), torch.ones_like(ids)) for each in (network, loaded))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not any(weight.requires_grad for weight in loaded.encoder.parameters())


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    encoder = load_bundled_encoder()[0]
    for name, data in (("missing", None), ("empty", b""), ("noise", b"\x10" * 400)):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(IntegrityError, match=name):
            load_span_network(encoder, path)
