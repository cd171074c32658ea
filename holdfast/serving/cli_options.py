"""Settings as command-line options: each option is one field of `Settings`, with its description and default.

An option that is not given leaves the field to the environment, then to its default.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from holdfast.errors import InvalidInput
from holdfast.serving.config import Settings

KEYS = ("key_file", "key_provider", "key_secret")
STORAGE = ("data_dir", *KEYS, "encryption", "object_store", "embedding_model", "device")
PARSING = ("max_file_bytes", "parse_memory_bytes", "parse_timeout_s")
ANSWERING = ("engine", "model", "upstream_url", "upstream_api_key", "num_passages", "relevance_threshold")
READING = ("document_cache_memory_bytes", "document_cache_disk_bytes")
EVERYTHING = tuple(Settings.model_fields)


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, whose first parameter is `settings`, one option for each named field."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            given = {name: arguments.pop(name) for name in names}
            command(make_settings({name: value for name, value in given.items() if value is not None}), **arguments)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        options = [_make_option(name, Settings.model_fields[name]) for name in names]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *options)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def make_settings(given: dict[str, Any]) -> Settings:
    """Return the settings with `given` above the environment.

    Raises:
        InvalidInput: a value, from either place, is not allowed.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidInput(f"{name} = {first['input']!r}: {first['msg']}", param=name) from None


def _make_option(name: str, field: FieldInfo) -> inspect.Parameter:
    default = field.get_default()
    description = f"{field.description} {'' if default is None else f'Default: {default}'}".strip()
    option = typer.Option(help=description, show_default=False, metavar="", rich_help_panel="Settings")
    kind: Any = field.annotation
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
