"""The text encoder that a config describes, of policies and of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffpolicy.config import FoundInData
from diffpolicy.nets.text import TextEncoder, vocabulary
from diffpolicy.registry import build, lookup
from diffpolicy.util.errors import require


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
    kind, given = lookup("text", options["name"]), {}
    if kind.learns_words(options):
        given["words"] = words
    if kind.brings_weights:
        given["known"] = known
    return build("text", options, **given)


def text_identity(section: Mapping[str, Any]) -> str | None:
    """Return what tells the weights of a config's text encoder from others, see `TextEncoder.identity`."""
    return lookup("text", section.get("name", "words")).identity(section)


def learns_words(section: Mapping[str, Any]) -> bool:
    """Return whether a config's text encoder knows the words of training alone, see `TextEncoder.learns_words`."""
    return bool(lookup("text", section.get("name", "words")).learns_words(section))


def check_words(before: FoundInData, now: FoundInData, path: object) -> None:
    """Refuse to begin with the weights of a text encoder that numbered its words otherwise.

    Args:
        before: what a checkpoint found in its data.
        now: what a training did that begins with its weights.
        path: of the checkpoint.

    Raises:
        ValueError: other words, which would get each other's meaning.
    """
    words, others = ({**one.words, "": vocabulary(one.texts)} for one in (now, before))
    for key in words:
        changed = sorted(set(words[key]) ^ set(others.get(key, ())))
        given = f"{path} was trained on other words{f' of {key!r}' if key else ''}: {', '.join(changed[:8])}"
        require(not changed, given, "the same ones", "train anew, or on recordings with the same words")
