"""How kernels are compiled: by numba, on the first call, without the interpreter lock.

Kept in a module of its own because importing it imports numba. Compiled code is cached beside the function's file or in
the user's cache folder; where neither can be written to, it is compiled once per process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on the first call, without the interpreter lock."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        return numba.njit(nogil=True)(function)
