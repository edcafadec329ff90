"""Several encoders of one text side by side, each of which may be left out in training (Esser et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.generative.shapes import Generators, rand
from diffpolicy.nets.text import TextEncoder, Told
from diffpolicy.policies.texts import build_text, learns_words, text_identity
from diffpolicy.util.errors import located, require

_BETWEEN = "+"  # identities of encoders


@final
class SideBySide(TextEncoder):
    """Encoders of the same text: their vectors one after the other, and their tokens, too, brought to one width.

    Args:
        parts: at least two encoders, as the section `text` describes one: {"name": "words"}.
        dropout: of each, the share of training texts that it is not told, in [0, 1); independent of one another, so
            that the policy or the generator also learns to do without it.
        width: W, numbers of each token: a linear layer over the encoder's.
        words: of training, for those that learn them.
        known: identities of those that bring weights, see `identity`; None accepts any.

    Raises:
        ValueError: fewer than two parts, not a share in [0, 1) for each, or what an encoder refuses.
    """

    brings_weights = True

    def __init__(
        self,
        parts: Sequence[Mapping[str, Any]],
        dropout: Sequence[float],
        width: int = 64,
        words: Sequence[str] = (),
        known: str | None = None,
    ) -> None:
        super().__init__()
        require(len(parts) >= 2, f"text.parts of {len(parts)}", "two or more", "take text=words or text=pretrained")
        shares = list(dropout)
        fits = len(shares) == len(parts) and all(0 <= share < 1 for share in shares)
        require(fits, f"text.dropout={shares} of {len(parts)} parts", "a share in [0, 1) for each")
        require(width >= 1, f"text.width={width}", "at least 1")
        inside = [part for part in parts if "parts" in part]
        require(not inside, f"text.parts={inside} of several encoders each", "one each", "name all in one list")
        of_parts = iter(known.split(_BETWEEN) if known else ())
        made = []
        for number, part in enumerate(parts):
            one = None if text_identity(part) is None else next(of_parts, None)
            with located(f"text.parts[{number}]"):
                made.append(build_text(part, words, one))
        self.parts, self.shares = nn.ModuleList(made), shares
        self.token = nn.ModuleList(nn.Linear(part.width, width) for part in made)
        self.features, self.width = sum(part.features for part in made), width
        self._sizes = [part.ids([part.example]).shape[1] for part in made]
        knows = next((one for one, part in zip(made, parts, strict=True) if learns_words(part)), made[0])
        self._example = knows.example

    @classmethod
    def learns_words(cls, options: Mapping[str, Any]) -> bool:
        """Return whether one of the parts does."""
        return any(map(learns_words, options["parts"]))

    @classmethod
    def identity(cls, options: Mapping[str, Any]) -> str | None:
        """Return the identities of the parts that bring weights, one after the other; None if none does."""
        found = [one for one in map(text_identity, options["parts"]) if one is not None]
        return _BETWEEN.join(found) or None

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of all encoders, one after the other, (B, L) int64."""
        return torch.cat([part.ids(texts) for part in self.parts], 1)

    @property
    def example(self) -> str:
        """A text that the encoder with a vocabulary of its own knows, if there is one."""
        return self._example

    def null(self, ids: Tensor) -> Tensor:
        """Return ids that say nothing to any of them."""
        return torch.cat([part.null(one) for part, one in self._split(ids)], 1)

    def thinned(self, ids: Tensor, generator: Generators) -> Tensor:
        """Return the ids of training texts, which each encoder is not told in a share of them."""
        left = []
        for share, (part, one) in zip(self.shares, self._split(ids), strict=True):
            if share:
                untold = rand((len(one), 1), generator, dtype=torch.float32, device=one.device) < share
                one = torch.where(untold, part.null(one), one)
            left.append(one)
        return torch.cat(left, 1)

    def forward(self, ids: Tensor) -> Told:
        told = [part(one) for part, one in self._split(ids)]
        tokens = [layer(one.tokens) * one.mask[..., None] for layer, one in zip(self.token, told, strict=True)]
        vector = torch.cat([one.vector for one in told], 1)
        return Told(vector, torch.cat(tokens, 1), torch.cat([one.mask for one in told], 1))

    def _split(self, ids: Tensor) -> list[tuple[Any, Tensor]]:
        return list(zip(self.parts, ids.split(self._sizes, 1), strict=True))
