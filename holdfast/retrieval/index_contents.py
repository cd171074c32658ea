"""What the file of an index says and holds: its quantisers, what was measured of each, and the rows encoded by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from holdfast.retrieval.calibrate import Calibration
from holdfast.retrieval.index_file import NewSection, StoredArray
from holdfast.retrieval.quantise import Quantiser, load_quantiser
from holdfast.retrieval.segment import Segment, by_quantiser, from_sections, to_sections


class Contents(NamedTuple):
    """What an index is made of."""

    quantiser: Quantiser
    """of what is added next"""
    calibrations: dict[str, Calibration]
    """by the quantiser's id"""
    segments: tuple[Segment, ...]


def to_contents(
    dim: int, quantiser: Quantiser, calibrations: Mapping[str, Calibration], segments: Sequence[Segment]
) -> tuple[dict[str, Any], list[NewSection]]:
    """Return the header and the sections; equal rows give equal sections, in whatever segments they lie."""
    groups = {group[0].quantiser.id: group for group in by_quantiser(segments)}
    quantisers = {name: group[0].quantiser for name, group in groups.items()} | {quantiser.id: quantiser}
    parts: list[dict[str, Any]] = []
    sections: list[NewSection] = []
    for part, (name, each) in enumerate(sorted(quantisers.items())):
        calibration = calibrations[name].to_json() if name in calibrations else None
        parameters = dict(sorted(each.parameters().items()))
        parts.append({"quantiser": name, "calibration": calibration, "parameters": list(parameters)})
        sections += [
            NewSection(f"{part}/{key}", array.dtype.newbyteorder("<").str, array.shape, (array,))
            for key, array in parameters.items()
        ]
        sections += to_sections(f"{part}/", groups.get(name, ()), each)
    return {"dim": dim, "quantiser": quantiser.id, "parts": parts}, sections


def from_contents(about: dict[str, Any], arrays: dict[str, StoredArray]) -> Contents:
    """Return what `to_contents` described. Raises IntegrityError where a quantiser is not what its id says."""
    quantisers: dict[str, Quantiser] = {}
    calibrations: dict[str, Calibration] = {}
    segments = []
    for part, described in enumerate(about["parts"]):
        parameters = {key: arrays[f"{part}/{key}"].whole() for key in described["parameters"]}
        quantiser = load_quantiser(described["quantiser"], parameters)
        quantisers[quantiser.id] = quantiser
        if described["calibration"] is not None:
            calibrations[quantiser.id] = Calibration.from_json(described["calibration"])
        segments.append(from_sections(f"{part}/", arrays, quantiser))
    kept = tuple(segment for segment in segments if segment.num_rows)
    return Contents(quantisers[about["quantiser"]], calibrations, kept)
