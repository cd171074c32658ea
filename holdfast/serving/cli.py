"""The command line: parse and start, nothing else.

A command imports what it runs when it runs, so that `holdfast --help` answers at once. Exit status: 0 done, 1 failed,
2 a mistake in the call.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

import holdfast
from holdfast.errors import HoldfastError
from holdfast.serving.cli_options import ANSWERING, EVERYTHING, PARSING, READING, STORAGE, with_settings
from holdfast.serving.config import Settings

app = typer.Typer(
    name="holdfast",
    help="Ask your own files: an OpenAI-compatible server for retrieval-augmented generation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys, name="api-key")
sealing_keys = typer.Typer(help="Make and rotate the keys that seal.", no_args_is_help=True)
app.add_typer(sealing_keys, name="keys")

Paths = Annotated[list[Path], typer.Argument(exists=True, help="Files, or folders that are read recursively.")]
OptionalPaths = Annotated[
    list[Path] | None, typer.Argument(exists=True, help="Files, or folders that are read recursively.")
]
Store = Annotated[str, typer.Option("--store", help="Vector store to use.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Run the command line; errors become one line and an exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        status = app(standalone_mode=False)
    except TyperException as error:
        if message := error.format_message().replace("Value error, ", ""):
            typer.echo(f"holdfast: {message} (see --help)", err=True)
        status = error.exit_code
    except HoldfastError as error:
        from holdfast.serving.cli_output import print_error

        status = print_error(error)
    _exit(status)


def _exit(status: int) -> None:
    """End the process; at once where a file is still being embedded, since Python cannot stop that and would abort."""
    if any(thread.name.startswith("ingestion-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"holdfast {holdfast.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@with_settings(*EVERYTHING)
def serve(settings: Settings, paths: OptionalPaths = None, as_json: AsJson = False) -> None:
    """Start the server, and put the files at PATHS into the vector store `vs_default`.

    Examples:

        holdfast serve reports/

        holdfast serve --port 9000 --engine remote --upstream-url http://127.0.0.1:8001/v1 --model my-model
    """
    from holdfast.serving.cli_serve import run_server

    run_server(settings, paths or [], as_json=as_json)


@app.command()
@with_settings(*STORAGE, *PARSING)
def ingest(settings: Settings, paths: Paths, store: Store = "vs_default", as_json: AsJson = False) -> None:
    """Put files into a vector store without a server; unchanged files are recognised.

    Examples:

        holdfast ingest reports/ notes.md

        holdfast ingest contracts/ --store vs_contracts --json
    """
    from holdfast.serving import cli_ingest, cli_output, cli_query

    files = cli_ingest.find_files(paths)
    with cli_query.open_service(settings, creates=True) as service:
        summary = cli_ingest.ingest_files(service, store, files, cli_output.err)
    if as_json:
        cli_output.print_json(summary.to_json())
    else:
        cli_output.out.print("\n".join(summary.lines()))
    if summary.failures:
        raise typer.Exit(cli_output.FAILED)


@app.command()
@with_settings(*STORAGE)
def search(
    settings: Settings,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    store: Store = "vs_default",
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Passages to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Show the passages nearest to QUERY.

    Example:

        holdfast search "threats to networks" -k 3
    """
    from holdfast.serving import cli_output, cli_query

    with cli_query.open_service(settings) as service:
        sources = cli_query.search(service, store, query, k)
    cli_output.print_sources(sources, as_json=as_json)


@app.command()
@with_settings(*STORAGE, *PARSING, *ANSWERING)
def ask(
    settings: Settings,
    question: Annotated[str, typer.Argument(help="In plain words.")],
    paths: OptionalPaths = None,
    store: Store = "vs_default",
    as_json: AsJson = False,
) -> None:
    """Answer QUESTION from the files at PATHS (from the whole vector store without any), with citations.

    Examples:

        holdfast ask "How much damage will cybercrime do per year?" examples/

        holdfast ask "What did we agree on liability?" --store vs_contracts
    """
    from holdfast.serving import cli_ingest, cli_query

    with cli_query.open_service(settings, answers=True, creates=bool(paths)) as service:
        cli_query.ask(service, store, question, cli_ingest.find_files(paths or []), as_json=as_json)


@app.command()
@with_settings(*STORAGE, *ANSWERING, *READING)
def stability(
    settings: Settings,
    question: Annotated[str, typer.Argument(help="In plain words.")],
    store: Store = "vs_default",
    mode: Annotated[str, typer.Option(help="How passages are read: set, sequence, mixture or auto.")] = "auto",
    orders: Annotated[int, typer.Option(min=2, max=50, help="Orders of the passages to try.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Which orders are drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask QUESTION under several orders of the passages found for it, and say how much the answer depends on them.

    Example:

        holdfast stability "When was the bridge built?" --engine hf --model ./my-model --mode set
    """
    from holdfast.serving import cli_documents, cli_query

    with cli_query.open_service(settings, answers=True) as service:
        cli_documents.show_stability(service, store, question, mode, orders, seed, as_json=as_json)


@app.command()
@with_settings(*STORAGE, *ANSWERING, *READING)
def warm(settings: Settings, store: Store = "vs_default", as_json: AsJson = False) -> None:
    """Read every passage of a vector store into the document cache, so that no question waits for it.

    Example:

        holdfast warm --engine hf --model ./my-model
    """
    from holdfast.serving import cli_documents, cli_query

    with cli_query.open_service(settings, answers=True) as service:
        cli_documents.warm(service, store, as_json=as_json)


@app.command("eval")
@with_settings("embedding_model", "device")
def evaluate(
    settings: Settings,
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Corpus, queries and judgements, as in BEIR.")
    ],
    language: Annotated[str, typer.Option(help="Which `corpus.LANGUAGE.jsonl`, where there are several.")] = "en",
    split: Annotated[str | None, typer.Option(help="Which queries; test, dev, val, train in turn when unset.")] = None,
    cache: Annotated[Path | None, typer.Option(help="File that keeps vectors, so that a stopped run resumes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval on an evaluation set: nDCG and recall of exact search, of codes, and of rescored codes.

    Example:

        holdfast eval data/scifact --cache vectors.bin
    """
    from holdfast.serving.cli_eval import evaluate_folder

    evaluate_folder(settings, folder, language=language, split=split, cache=cache, as_json=as_json)


@app.command("redteam")
@with_settings("embedding_model", "device")
def red_team(
    settings: Settings,
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Corpus and queries, as for `eval`.")],
    mode: Annotated[
        list[str] | None, typer.Option(help="A mode to attack; may be given again. Else `sealed`, `asym`, `plain`.")
    ] = None,
    language: Annotated[str, typer.Option(help="Which `corpus.LANGUAGE.jsonl`, where there are several.")] = "en",
    split: Annotated[str | None, typer.Option(help="Which queries; test, dev, val, train in turn when unset.")] = None,
    cache: Annotated[Path | None, typer.Option(help="File that keeps vectors, so that a stopped run resumes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Attack your own texts as a store would that keeps them, and print what it learns in each mode.

    Examples:

        holdfast redteam data/scifact --cache vectors.bin

        holdfast redteam data/scifact --mode asym --mode codes --json
    """
    from holdfast.serving.cli_redteam import attack_folder

    attack_folder(
        settings,
        folder,
        modes=mode or ["sealed", "asym", "plain"],
        language=language,
        split=split,
        cache=cache,
        as_json=as_json,
    )


@app.command()
@with_settings("embedding_model", "device", *ANSWERING)
def models(settings: Settings, as_json: AsJson = False) -> None:
    """List the models that a server with these settings offers.

    Example:

        holdfast models --engine hf --model ./my-model
    """
    from holdfast.serving import cli_query

    cli_query.list_models(settings, as_json=as_json)


@app.command()
@with_settings(*STORAGE)
def verify(settings: Settings, as_json: AsJson = False) -> None:
    """Check every checksum and cross-reference of the data directory; exit with 1 if anything is wrong.

    Example:

        holdfast verify --data-dir /srv/holdfast
    """
    from holdfast.serving import cli_output, cli_query

    with cli_query.open_service(settings) as service:
        faults = service.collections.verify()
    if as_json:
        cli_output.print_json({"faults": faults})
    else:
        cli_output.out.print("\n".join(faults) or "All is well.")
    if faults:
        raise typer.Exit(cli_output.FAILED)


@sealing_keys.command("create")
@with_settings("key_file")
def create_sealing_key(settings: Settings, as_json: AsJson = False) -> None:
    """Add a key to the key file, made where there is none; the last key of the file is the one that is used.

    Example:

        holdfast keys create --key-file /etc/holdfast/keys
    """
    from holdfast.serving import cli_keys, cli_output

    key_id = cli_keys.create_key(settings)
    if as_json:
        cli_output.print_json({"key_id": key_id})
    else:
        cli_output.out.print(key_id)


@sealing_keys.command("rotate")
@with_settings(*STORAGE)
def rotate_keys(
    settings: Settings,
    store: Annotated[str | None, typer.Option(help="Seal the contents of this vector store again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replace keys: those of one vector store, or with no --store the root of all, under the newest key of the file.

    Examples:

        holdfast keys rotate

        holdfast keys rotate --store vs_contracts
    """
    from holdfast.serving import cli_keys, cli_output, cli_query

    with cli_query.open_service(settings) as service:
        lines = cli_keys.rotate(service, store)
    if as_json:
        cli_output.print_json({"rotated": lines})
    else:
        cli_output.out.print("\n".join(lines))


@keys.command("create")
@with_settings("data_dir")
def create_key(
    settings: Settings,
    tenant: Annotated[str, typer.Option(help="Whose key it is; tenants do not see each other's objects.")] = "default",
    name: Annotated[str, typer.Option(help="A note for the list.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it; it is shown once. From the first key on, every request needs one.

    Example:

        holdfast api-key create --tenant sales --name "sales bot"
    """
    from holdfast.serving import cli_output
    from holdfast.serving.api_keys import ApiKeys

    key, text = ApiKeys(settings.data_dir).create(tenant, name)
    if as_json:
        cli_output.print_json({"id": key.id, "tenant": key.tenant, "name": key.name, "key": text})
    else:
        cli_output.out.print(text)


@keys.command("list")
@with_settings("data_dir")
def list_keys(settings: Settings, as_json: AsJson = False) -> None:
    """List the API keys, revoked ones too; the keys themselves are not kept.

    Example:

        holdfast api-key list
    """
    from holdfast.serving import cli_output
    from holdfast.serving.api_keys import ApiKeys

    cli_output.print_keys(ApiKeys(settings.data_dir).list(), as_json=as_json)


@keys.command("revoke")
@with_settings("data_dir")
def revoke_key(
    settings: Settings,
    key_id: Annotated[str, typer.Argument(help="The id that `holdfast api-key list` shows.")],
    as_json: AsJson = False,
) -> None:
    """Refuse an API key from now on.

    Example:

        holdfast api-key revoke 0123456789abcdef
    """
    from holdfast.serving import cli_output
    from holdfast.serving.api_keys import ApiKeys

    cli_output.print_keys([ApiKeys(settings.data_dir).revoke(key_id)], as_json=as_json)


if __name__ == "__main__":
    main()
