"""A real server process: `holdfast serve` on a free port of 127.0.0.1, with its own data directory and log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
LISTENING = re.compile(r"Listening on (http://\S+)")


@dataclass(frozen=True, slots=True)
class Server:
    """One running server."""

    url: str
    """without /v1"""
    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path

    @property
    def base_url(self) -> str:
        """What OpenAI's clients call the base URL."""
        return f"{self.url}/v1"

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Signal the process and return its exit status."""
        self.process.send_signal(how)
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def running_server(folder: Path, **settings: object) -> Iterator[Server]:
    """Start a server with its files under `folder` and the given settings; stop it in the end."""
    data_dir, log = folder / "data", folder / "server.log"
    environment = {f"HOLDFAST_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "holdfast", "serve", "--port", "0", "--data-dir", str(data_dir)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Server(wait_for_url(process, log), process, data_dir, log)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the URL that the server announces."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if match := LISTENING.search(log.read_text(errors="replace")):
            return match.group(1)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')}")
