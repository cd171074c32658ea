"""Holdfast: an OpenAI-compatible server for retrieval-augmented generation in a private cloud."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
