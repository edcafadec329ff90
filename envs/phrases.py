"""Instructions in words: which way of doing a task is asked for, said in several ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gymnasium import spaces

from .checks import check_choice, require

PHRASINGS = ("taught", "held_out")
"""Which phrasings an environment asks in: those of demonstrations, or others of the same words, for tests."""


def text_space(texts: Sequence[str]) -> spaces.Text:
    """Return the space of an observation that is one of these texts."""
    return spaces.Text(max(map(len, texts)), charset="".join(sorted({*"".join(texts)})))


@dataclass(frozen=True)
class Phrases:
    """What each mode of a task is called in words.

    Args:
        words: mode -> the words that fill the templates, by name.
        taught: templates such as "push the {block} block".
        held_out: others, of the same words.
    """

    words: Mapping[str, Mapping[str, str]]
    taught: Sequence[str]
    held_out: Sequence[str]

    def of(self, mode: str, phrasings: str) -> list[str]:
        """Return the instructions for a mode.

        Args:
            mode: one of `words`.
            phrasings: one of `PHRASINGS`.
        """
        check_choice("phrasings", phrasings, PHRASINGS)
        templates = self.taught if phrasings == PHRASINGS[0] else self.held_out
        return [template.format(**self.words[mode]) for template in templates]

    def mode_of(self, text: str) -> str:
        """Return the mode that a text asks for.

        Raises:
            ValueError: it asks for none.
        """
        said = {one: mode for mode in self.words for phrasing in PHRASINGS for one in self.of(mode, phrasing)}
        example = next(iter(said))
        require(text in said, f"the instruction {text!r}", f"one of the environment's own, such as {example!r}")
        return said[text]

    @property
    def longest(self) -> int:
        """Letters of the longest text."""
        return max(len(one) for mode in self.words for phrasing in PHRASINGS for one in self.of(mode, phrasing))
