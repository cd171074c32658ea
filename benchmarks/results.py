"""What a benchmark reports, and the file it is committed as.

A record is `results/NAME.HARDWARE.json`: the rows, the targets they are held against, and all that is needed to
repeat the run (commit, command, hardware, versions).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("holdfast", "numpy", "numba", "torch", "transformers", "sentence-transformers", "pypdfium2")

Value = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class Target:
    """A number that was promised, and whether it was reached."""

    id: str
    """stable short name"""
    what: str
    """one line, with the unit"""
    value: float
    must: float
    """the bound that has to hold"""
    aim: float
    """where we want to be"""
    better: Literal["higher", "lower"] = "higher"

    @property
    def holds(self) -> bool:
        return bool(self.value >= self.must if self.better == "higher" else self.value <= self.must)


@dataclass(frozen=True, slots=True)
class Result:
    """What `run` returns. A row's `table` names the table it is printed in; its other keys are the columns."""

    rows: Sequence[dict[str, Value]]
    targets: Sequence[Target] = field(default_factory=tuple)


class TargetRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    what: str
    value: float
    must: float
    aim: float
    holds: bool


class Hardware(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    cpu: str
    cores: int
    ram_gib: int
    gpu: str | None

    @property
    def slug(self) -> str:
        """As it stands in the file's name: `amd-epyc-2-cores`."""
        model = re.sub(r"\(\w+\)|CPU|Processor|@.*", " ", self.cpu).split()[:3]
        parts = [*model, f"{self.cores}-cores", self.gpu or ""]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


class Record(BaseModel):
    """A committed result; reading one back validates it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    commit: str
    command: str
    hardware: Hardware
    versions: dict[str, str]
    rows: list[dict[str, Value]]
    targets: list[TargetRecord]


def make_record(name: str, command: str, result: Result) -> Record:
    """Return `result` with this machine, this commit and the installed versions."""
    targets = []
    for target in result.targets:
        fields = {**asdict(target), "holds": target.holds}
        del fields["better"]
        fields |= {key: float(fields[key]) for key in ("value", "must", "aim")}
        targets.append(TargetRecord(**fields))
    return Record(
        name=name,
        commit=_commit(),
        command=command,
        hardware=read_hardware(),
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        rows=[{key: _plain(value) for key, value in row.items()} for row in result.rows],
        targets=targets,
    )


def read_hardware() -> Hardware:
    """Describe this machine."""
    import torch

    return Hardware(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    )


def committed_records(name: str | None = None) -> dict[Path, Record]:
    """Return the committed records, all or those of one benchmark, by file name."""
    paths = sorted(RESULTS.glob(f"{name or '*'}.*.json"))
    return {path: Record.model_validate_json(path.read_text(encoding="utf-8")) for path in paths}


def _plain(value: Value) -> Value:
    """A NumPy scalar as the Python number it holds."""
    return value.item() if isinstance(value, np.generic) else value


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"model name\s*:\s*(.+)", text)
    return model.group(1).strip() if model else platform.machine()


def _commit() -> str:
    """The commit, with `+changes` where the working tree differs from it."""
    root = Path(__file__).parents[1]
    try:
        head = subprocess.check_output(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, text=True).strip()
        status = subprocess.check_output(["git", "status", "--porcelain", "-uno"], cwd=root, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if status.strip() else "")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from source" if package == "holdfast" else "absent"
