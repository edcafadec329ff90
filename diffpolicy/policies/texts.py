"""The text encoder that a config describes, of policies and of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffpolicy.nets.text import TextEncoder
from diffpolicy.registry import build, lookup


def build_text(section: Mapping[str, Any], words: Sequence[str], known: str | None = None) -> TextEncoder:
    """Return the encoder that the section `text` of a config describes.

    Args:
        section: its name, options for the registry, and `attend`, which is the network's.
        words: of training, for one that learns them.
        known: of one that brings weights, their identity in training; None accepts any.

    Raises:
        ValueError: unknown names or options, or what the encoder refuses.
    """
    options = {name: value for name, value in section.items() if name != "attend"}
    options.setdefault("name", "words")
    given = {"words": words} if lookup("text", options["name"]).learns_words else {"known": known}
    return build("text", options, **given)


def text_identity(section: Mapping[str, Any]) -> str | None:
    """Return what tells the weights of a config's text encoder from others, see `TextEncoder.identity`."""
    return lookup("text", section.get("name", "words")).identity(section)
