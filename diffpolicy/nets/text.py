"""Texts that say what to do: words as numbers, and an encoder of them that is trained with what it tells.

A text is told in two forms: as a vector, which any network takes beside its other numbers, and as tokens, to which
networks with `token_dim` attend.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn

from diffpolicy.nets.around import AroundNetwork
from diffpolicy.nets.base import Network
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require
from diffpolicy.util.names import suggest

PADDING, BEGIN = 0, 1  # every text begins with a token of its own, so that an empty one has something to attend to
_SPECIAL = 2  # ids before the first word


class Told(NamedTuple):
    """What texts say: as vectors (B, F), and as tokens (B, L, W) of which those count whose mask (B, L) is true."""

    vector: Tensor
    tokens: Tensor
    mask: Tensor


class TextEncoder(nn.Module, ABC):
    """Texts -> ids (B, L) -> vectors and tokens.

    Attributes:
        features: F, numbers of the vector.
        width: W, numbers of each token.
        brings_weights: whether it is made with the identity of its weights in training, as the argument `known`.
    """

    features: int
    width: int
    brings_weights: ClassVar[bool] = False

    @classmethod
    def learns_words(cls, options: Mapping[str, Any]) -> bool:
        """Return whether it is made with the words of training, as the argument `words`, and knows no others.

        Args:
            options: the others that it is made with.
        """
        return False

    @classmethod
    def identity(cls, options: Mapping[str, Any]) -> str | None:
        """Return what tells its weights from others, of an encoder that brings some; None of one that is trained.

        Args:
            options: those that it is made with.
        """
        return None

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of texts, (B, L) int64 on the CPU.

        Raises:
            ValueError: a text that is empty, too long, or of words that it does not know.
        """

    @property
    @abstractmethod
    def example(self) -> str:
        """A text that it knows."""

    @abstractmethod
    def null(self, ids: Tensor) -> Tensor:
        """Return ids that say nothing, for training without a text and for guidance; in the shape of `ids`."""

    def thinned(self, ids: Tensor, generator: Any) -> Tensor:
        """Return the ids of training texts, without what is left out of them at random.

        Args:
            ids: (B, L) int64.
            generator: of what is left out.
        """
        return ids

    @abstractmethod
    def forward(self, ids: Tensor) -> Told:
        """Return what texts say.

        Args:
            ids: (B, L) int64.
        """


@final
class WordsEncoder(TextEncoder):
    """A transformer over the words of a small vocabulary, trained from scratch with the model that it tells.

    Args:
        words: the vocabulary; a text of others is refused.
        features: F, numbers of the vector: a linear layer over the mean of the tokens.
        width: W, numbers of each token.
        layers: of the transformer; 0 leaves the words as they are, in no order.
        heads: of its attention; divides the width.
        length: the most words of a text.

    Raises:
        ValueError: sizes that are not positive or do not fit together, or no words.
    """

    def __init__(
        self,
        words: Sequence[str],
        features: int = 64,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        length: int = 24,
    ) -> None:
        super().__init__()
        sizes = {"features": features, "width": width, "heads": heads, "length": length}
        require(min(sizes.values()) >= 1 and layers >= 0, f"text sizes {sizes | {'layers': layers}}", "positive ones")
        require(width % heads == 0, f"text.width={width} with text.heads={heads}", "a width that the heads divide")
        require(words, "a vocabulary without words", "texts to learn from")
        self.features, self.width, self.length = features, width, length
        self._numbers = {word: number for number, word in enumerate(words, _SPECIAL)}
        self.word = nn.Embedding(len(words) + _SPECIAL, width)
        self.place = nn.Parameter(0.02 * torch.randn(length + 1, width))
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False) if layers else None
        self.vector = nn.Linear(width, features)

    @classmethod
    def learns_words(cls, options: Mapping[str, Any]) -> bool:
        """Return True."""
        return True

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of texts, (B, length + 1) int64: what begins each, its words, and padding."""
        found = torch.full((len(texts), self.length + 1), PADDING, dtype=torch.int64)
        found[:, 0] = BEGIN
        for row, text in zip(found, texts, strict=True):
            words = words_of(text)
            require(words, f"the text {text!r}", "words", "say what to do")
            given = f"the text {text[:60]!r} of {len(words)} words"
            require(len(words) <= self.length, given, f"at most {self.length}", "say it shorter")
            for word in words:
                cure = (
                    f"say it by words of training ({', '.join(list(self._numbers)[:40])}), or train on more episodes"
                )
                says = f"the word {word!r} of the text {text!r}, which training never saw"
                require(word in self._numbers, says + suggest(word, self._numbers), cure=cure)
            row[1 : len(words) + 1] = torch.tensor([self._numbers[word] for word in words])
        return found

    @property
    def example(self) -> str:
        """Its first word."""
        return next(iter(self._numbers))

    def null(self, ids: Tensor) -> Tensor:
        """Return ids of no words at all."""
        none = torch.full_like(ids, PADDING)
        none[:, 0] = BEGIN
        return none

    def forward(self, ids: Tensor) -> Told:
        if len(ids) == 1:
            return self._said(ids)
        texts, which = ids.unique(dim=0, return_inverse=True)  # a batch repeats the few texts of a recording
        return Told(*(part[which] for part in self._said(texts)))

    def _said(self, ids: Tensor) -> Told:
        mask = ids != PADDING
        tokens = self.word(ids)
        if self.blocks is not None:
            tokens = self.blocks(tokens + self.place[: ids.shape[1]], src_key_padding_mask=~mask)
        tokens = tokens * mask[..., None]
        mean = tokens.sum(1) / mask.sum(1, keepdim=True)
        return Told(self.vector(mean), tokens, mask)


@final
class ToldNetwork(AroundNetwork, Network):
    """A network of images whose condition is the ids of a text (B, L): `text` reads them, `net` is told.

    Args:
        net: takes a `Condition` of the text's vector and, if it was made with `token_dim`, of its tokens.
        text: reads the ids.
        attends: whether the network takes the tokens.
    """

    def __init__(self, net: Network, text: TextEncoder, attends: bool) -> None:
        super().__init__()
        self.net, self.text, self.attends = net, text, attends

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        told = self.text(cond)
        return self.net(x, t, Condition(*told) if self.attends else Condition(told.vector), r)

    def null(self, cond: Any) -> Any:
        """Return the ids that say nothing."""
        return self.text.null(cond)

    def thinned(self, cond: Any, generator: Any) -> Any:
        """Return the ids of training texts; see `TextEncoder.thinned`."""
        return self.text.thinned(cond, generator)


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case and without punctuation."""
    return re.findall(r"\w+", text.lower())


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Return all words of texts, in order of the alphabet."""
    return sorted({word for text in texts for word in words_of(text)})
