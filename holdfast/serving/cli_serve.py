"""`holdfast serve`: a server that answers at once, while the files named on the command line are being read."""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.serving import cli_ingest
from holdfast.serving.cli_output import SNIPPET, err, loading, out, print_json
from holdfast.serving.config import Settings
from holdfast.serving.exposure import check_exposure
from holdfast.serving.server import serve
from holdfast.serving.service import Service

STORE = "vs_default"


def run_server(settings: Settings, paths: Sequence[Path], *, as_json: bool) -> None:
    """Serve until interrupted; say where, and how to ask, once the files at `paths` are in."""
    check_exposure(settings)
    files = cli_ingest.find_files(paths)
    with loading():
        service = Service(settings)
    new, num_known = cli_ingest.attach_files(service, STORE, list(files), err)

    def announce(url: str) -> None:
        err.print(f"Listening on {url}")
        try:
            cli_ingest.show_progress(service, STORE, err)
            summary = cli_ingest.summarise(service, STORE, new, num_known, files)
        except (HoldfastError, sqlite3.Error) as error:  # a full disk, or the server stops
            logging.getLogger(__name__).warning("no longer watching the files being read: %s", error)
            return
        if as_json:
            print_json({"url": url, "model": service.engine.name, "files": summary.to_json()})
        else:
            if paths:
                out.print("\n".join(summary.lines()))
            snippet = SNIPPET.format(url=url, model=service.engine.name, store=STORE)
            out.print(f"\nReady. Ask with the openai client:\n{snippet}")
        sys.stdout.flush()

    def on_bound(url: str) -> None:
        threading.Thread(target=announce, args=(url,), name="announce", daemon=True).start()

    serve(settings, service=service, on_bound=on_bound)
