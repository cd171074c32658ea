"""A tiny reader through every stage: tokenizer, data, training, a stop and a resumption, export, loading."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from holdfast.serving.engine.hf import make_hf_engine
from holdfast.serving.engine.hf_prompt import PromptEncoder
from holdfast.serving.engine.prompt_formats import MarkedFormat
from holdfast.serving.engine.set_prompt import SetEncoder
from holdfast.serving.prompts import NOT_IN_FILES
from tests.serving.engine.requests import collect, make_request, make_source
from training.__main__ import main
from training.contexts import NONE
from training.decode import answer, read_documents
from training.encoding import TAIL_POSITION, encode_document, encode_question
from training.mixture import Mixture
from training.sizes import SIZES, make_model
from training.tokenizer import load_tokenizer
from training.train import Machine, anneal_step, learning_rate, load_checkpoint, train

MICRO = SIZES["micro"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all stages by their commands."""
    folder = tmp_path_factory.mktemp("micro")
    for stage in ("tokenizer", "pretrain", "anneal", "export", "plot"):
        main([stage, "--size", "micro", "--run", str(folder), "--contexts", "100"])
    return folder


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> Tokenizer:
    return load_tokenizer(run / "tokenizer.json")


def test_every_step_is_logged_and_drawn(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(MICRO.log_every, MICRO.num_steps + 1, MICRO.log_every))
    assert all(0 < row["loss"] < 50 for row in rows)
    assert (run / "loss.svg").read_text().count("polyline") == 1


@pytest.mark.parametrize("num_loaders", [0, 1])
def test_a_run_stopped_and_resumed_ends_with_the_same_weights(
    run: Path, tokenizer: Tokenizer, tmp_path: Path, num_loaders: int
) -> None:
    machine = Machine(num_loaders=num_loaders)
    for until in (5, MICRO.num_steps):
        train(tmp_path, MICRO, tokenizer, machine, until=until)
    whole, resumed = (load_checkpoint(folder, MICRO)[0].state_dict() for folder in (run, tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_changes_the_weights_and_another_seed_gives_others(run: Path, tokenizer: Tokenizer) -> None:
    trained, step = load_checkpoint(run, MICRO)
    fresh = make_model(MICRO, 0).state_dict()
    assert step == MICRO.num_steps
    assert not any(torch.equal(trained.state_dict()[name], fresh[name]) for name in fresh)
    mixture, other = Mixture(MICRO, tokenizer, 0), Mixture(MICRO, tokenizer, 1)
    first = [mixture.row(0, number).ids.tolist() for number in range(5)]
    assert first == [mixture.row(0, number).ids.tolist() for number in range(5)]
    assert first != [other.row(0, number).ids.tolist() for number in range(5)]


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [learning_rate(step, MICRO) for step in range(MICRO.num_steps + 1)]
    assert rates[: MICRO.warmup_steps] == sorted(rates[: MICRO.warmup_steps])
    assert rates[MICRO.warmup_steps] == MICRO.peak_rate == rates[anneal_step(MICRO) - 1]
    assert rates[-1] == 0


def test_the_export_generates_what_the_checkpoint_generates(run: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = AutoModelForCausalLM.from_pretrained(run / "export")
    assert type(exported).__name__ == "LlamaForCausalLM"
    assert exported.dtype == torch.bfloat16
    assert exported.config.holdfast_set_mode is True
    own = load_checkpoint(run, MICRO)[0].to(torch.bfloat16)
    text = "The Alder Bridge was opened in 1932."
    ids = torch.tensor([encode_document(tokenizer, text) + encode_question(tokenizer, "When was it opened?")])
    made = [model.generate(ids, max_new_tokens=12, do_sample=False) for model in (exported, own)]
    assert torch.equal(*made)
    fast = AutoTokenizer.from_pretrained(run / "export")
    assert fast(text).input_ids == tokenizer.encode(text).ids
    marked = fast(f"<doc>{text}</doc><q>When was it opened?</q><ans>").input_ids
    assert marked == ids[0].tolist()
    cache = read_documents(exported, tokenizer, [text], "set")
    assert isinstance(answer(exported, tokenizer, cache, "When was it opened?", "set"), str)


def test_the_server_asks_an_exported_reader_as_training_did(run: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    texts, question = ["The Alder Bridge was opened in 1932.", "It crosses the Elm."], "When was it opened?"
    engine = make_hf_engine(str(run / "export"))
    fast = AutoTokenizer.from_pretrained(run / "export")
    request = make_request(question, [make_source(text) for text in texts], max_tokens=48, temperature=0.0)
    prompt = SetEncoder(MarkedFormat(fast, PromptEncoder(fast)), TAIL_POSITION).encode(request)
    assert {document.token_ids for document in prompt.documents} == {
        tuple(encode_document(tokenizer, text)) for text in texts
    }
    assert list(prompt.question_ids) == encode_question(tokenizer, question)
    streamed = asyncio.run(collect(engine, request))
    model = load_checkpoint(run, MICRO)[0].to(torch.bfloat16).float()
    expected = answer(model, tokenizer, read_documents(model, tokenizer, texts, "set"), question, "set")
    assert engine.mode(request) == "set"
    shown = re.sub("<[^<>]*>", "", expected.replace(NONE, NOT_IN_FILES))  # marks, which an untrained reader utters
    assert streamed.text().strip() == shown.strip()
    messages = [{"role": "user", "content": question}]
    documents = [{"text": text} for text in texts]
    rendered = fast.apply_chat_template(messages, documents=documents, return_dict=False)
    assert rendered == engine.prompt_ids(request)
    assert fast.decode(fast.convert_tokens_to_ids(NOT_IN_FILES)) == NOT_IN_FILES
    asyncio.run(engine.close())


def test_a_killed_save_leaves_the_last_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "checkpoint.pt", tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.partial").write_bytes(b"half")
    assert load_checkpoint(tmp_path, MICRO)[1] == MICRO.num_steps


def test_the_evaluation_measures_an_untrained_reader_near_zero(run: Path, tokenizer: Tokenizer) -> None:
    from training import evaluate

    reader = evaluate.Reader(load_checkpoint(run, MICRO)[0], tokenizer)
    rows = [*evaluate.measure_facts(reader, 1, (2,)), *evaluate.measure_orders(reader, 1, 2)]
    rows += evaluate.measure_reading(reader, 1, 2)
    assert {row["table"] for row in rows} == {"facts", "orders", "reading"}
    assert all(row["set"] <= 0.5 for row in rows if row["table"] == "facts")
    (orders,) = [row for row in rows if row.get("mode") == "set"]
    assert orders["changed"] == 0
