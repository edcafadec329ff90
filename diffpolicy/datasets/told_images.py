"""Images whose labels are texts: one for every combination of words, in each of several templates."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar

from torch import Tensor

from diffpolicy.datasets.catalog import ImageSource


class ToldImages(ImageSource):
    """A source whose texts and their numbers follow from its words and templates."""

    words: ClassVar[dict[str, tuple[str, ...]]]
    """Kind of word -> the words, such as "digit" -> ("zero", "one", …)."""

    templates: ClassVar[tuple[str, ...]]
    """Texts with the kinds in braces, such as "a {color} {digit}"."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        each = (dict(zip(cls.words, words, strict=True)) for words in product(*cls.words.values()))
        cls.texts = tuple(template.format(**words) for words in each for template in cls.templates)
        cls.classes = len(cls.texts)

    @classmethod
    def said(cls, labels: Tensor) -> dict[str, Tensor]:
        """Return what texts (B,) say: by kind of word, its number among `words`, (B,) int64."""
        found, number = {}, labels // len(cls.templates)
        for kind, words in reversed(cls.words.items()):
            found[kind], number = number % len(words), number // len(words)
        return {kind: found[kind] for kind in cls.words}
