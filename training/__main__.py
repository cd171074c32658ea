"""The command line: `python -m training STAGE`; see training/README.md."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
from pathlib import Path

from training.sizes import SIZES, Size

RUNS = Path("training-runs")
STAGES = (
    *("tokenizer", "data", "pretrain", "anneal", "evaluate", "export", "plot"),
    *("preferences", "dpo"),
    *("spans", "export-spans"),
)
PREFERRED = ("facts", "real questions")
"""the kinds of context that preferences are made of"""


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    size = SIZES[options.size]
    folder = options.run or RUNS / ("spans" if "spans" in options.stage else size.name)
    if options.stage == "tokenizer":
        _train_tokenizer(folder, size, options)
    elif options.stage == "data":
        _show_data(size, options)
    elif options.stage in ("pretrain", "anneal"):
        _train(folder, size, options)
    elif options.stage == "evaluate":
        _evaluate(folder, size, options)
    elif options.stage == "export":
        _export(folder, size, options)
    elif options.stage == "preferences":
        _make_preferences(folder, size, options)
    elif options.stage == "dpo":
        _train_preferences(folder, size, options)
    elif options.stage == "plot":
        from training.plot import plot

        print(plot(folder))
    elif options.stage == "spans":
        from training.spans import SpanConfig, train_spans

        config = SpanConfig(seed=options.seed, num_threads=options.threads, num_workers=options.workers)
        train_spans(folder, config, device=options.device)
    else:
        from training.spans import export_spans

        print(export_spans(folder, options.to))


def _train_tokenizer(folder: Path, size: Size, options: argparse.Namespace) -> None:
    from training.mixture import texts
    from training.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(texts(size, options.seed, options.contexts or 20_000), size.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    print(f"{tokenizer.get_vocab_size()} tokens in {folder / 'tokenizer.json'}")


def _show_data(size: Size, options: argparse.Namespace) -> None:
    """Print a few contexts of each phase."""
    from training.mixture import draw_context

    for number, phase in enumerate(size.phases):
        for draw in range(options.contexts or 3):
            context = draw_context(random.Random(f"{options.seed}/shown/{number}/{draw}"), phase)
            print(f"--- phase {number}: {context.kind}")
            print("\n".join(context.documents))
            for asked in context.asked:
                print(f"    {asked.question} -> {asked.answer}")


def _train(folder: Path, size: Size, options: argparse.Namespace) -> None:
    from training.tokenizer import load_tokenizer
    from training.train import Machine, anneal_step, train

    until = anneal_step(size) if options.stage == "pretrain" else size.num_steps
    rows_a_pass = options.rows or (4 if options.device == "cpu" else 64)
    machine = Machine(options.device, options.threads, options.workers - 1, options.compile, rows_a_pass)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    print(f"step {train(folder, size, tokenizer, machine, seed=options.seed, until=until)} of {size.num_steps}")


def _evaluate(folder: Path, size: Size, options: argparse.Namespace) -> None:
    from training import evaluate
    from training.tokenizer import load_tokenizer
    from training.train import load_checkpoint

    model, step = load_checkpoint(folder, size)
    reader = evaluate.Reader(model.to(options.device), load_tokenizer(folder / "tokenizer.json"))
    rows = evaluate.measure_all(reader, options.contexts or 100)
    report = {"size": size.name, "step": step, "rows": rows}
    (folder / f"evaluation.{step}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


def _make_preferences(folder: Path, size: Size, options: argparse.Namespace) -> None:
    from training.mixture import draw_context
    from training.preferences import make_preferences, save_preferences
    from training.tokenizer import load_tokenizer
    from training.train import load_checkpoint

    drawn = (
        draw_context(random.Random(f"{options.seed}/preferences/{number}"), size.phases[-1])
        for number in itertools.count()
    )
    contexts = itertools.islice((each for each in drawn if each.kind in PREFERRED), options.contexts or 400)
    model = load_checkpoint(folder, size)[0].to(options.device)
    made = make_preferences(model, load_tokenizer(folder / "tokenizer.json"), contexts, options.seed)
    print(f"{save_preferences(folder / 'preferences.jsonl', made)} pairs in {folder / 'preferences.jsonl'}")


def _train_preferences(folder: Path, size: Size, options: argparse.Namespace) -> None:
    from training.dpo import train_preferences
    from training.preferences import load_preferences
    from training.train import load_checkpoint, save_checkpoint

    model, step = load_checkpoint(folder, size)
    model = model.to(options.device)
    losses = train_preferences(model, load_preferences(folder / "preferences.jsonl"), options.seed)
    (folder / "dpo").mkdir(exist_ok=True)
    save_checkpoint(folder / "dpo" / "checkpoint.pt", step, model)
    shutil.copy(folder / "tokenizer.json", folder / "dpo" / "tokenizer.json")
    print(f"loss of each pass {', '.join(f'{loss:.4f}' for loss in losses)}; go on with --run {folder / 'dpo'}")


def _export(folder: Path, size: Size, options: argparse.Namespace) -> None:
    from training.export import export
    from training.tokenizer import load_tokenizer
    from training.train import load_checkpoint

    target = options.to or folder / "export"
    export(load_checkpoint(folder, size)[0], load_tokenizer(folder / "tokenizer.json"), target)
    print(target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train the models inside the package.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--size", choices=sorted(SIZES), default="r-30m", help="which generative reader")
    parser.add_argument("--run", type=Path, help="folder of the run; training-runs/SIZE where left out")
    parser.add_argument("--to", type=Path, help="where to export to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of one process")
    parser.add_argument("--workers", type=int, default=1, help="processes, this one included")
    parser.add_argument("--rows", type=int, help="most full rows in one pass over the model; 4 on a CPU, else 64")
    parser.add_argument("--compile", action="store_true", help="torch.compile; worth its minutes on a GPU only")
    parser.add_argument("--contexts", type=int, help="how many contexts to learn from, to show or to evaluate on")
    return parser


if __name__ == "__main__":
    main()
