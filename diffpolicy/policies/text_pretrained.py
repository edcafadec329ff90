"""Texts through a pretrained encoder that stays as it is: CLIP's text tower or T5's encoder, from a folder."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.nets.text import TextEncoder, Told
from diffpolicy.nets.text_towers import TOWERS
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import new_digest
from diffpolicy.util.optional import optional

_ELSEWHERE = "DIFFPOLICY_TEXT"  # environment variable
_REMEMBERED = 4096  # texts
_FILES = ("config.json", "tokenizer.json", "model.safetensors")


@final
class PretrainedEncoder(TextEncoder):
    """A frozen encoder, on the CPU, whose answer to a text is computed once; two linear layers on top are trained.

    Checkpoints hold these layers alone, and name the folder and a digest of its files.

    Args:
        path: folder in the Hugging Face layout: config.json, tokenizer.json and model.safetensors. Where the
            environment variable DIFFPOLICY_TEXT names another one, or one that holds a folder of this name, that is
            read.
        features: F, numbers of the vector: a linear layer over the mean of the tokens.
        width: W, numbers of each token: a linear layer over the encoder's.
        length: the most tokens of a text, those included that mark its ends.
        known: see `identity`; None accepts any.

    Raises:
        ValueError: no such folder, files that are missing or of another model, or others than `known` says.
        ImportError: the package tokenizers is missing.
    """

    brings_weights = True

    def __init__(
        self, path: str, features: int = 64, width: int = 64, length: int = 32, known: str | None = None
    ) -> None:
        super().__init__()
        folder = _folder(path)
        require(path or os.environ.get(_ELSEWHERE), "text=pretrained without a folder", cure="give text.path=FOLDER")
        missing = [name for name in _FILES if not (folder / name).is_file()]
        given = f"the text encoder at text.path={folder} lacks {', '.join(missing)}"
        require(not missing, given, "a folder in the Hugging Face layout", f"give text.path, or {_ELSEWHERE}")
        config = json.loads((folder / _FILES[0]).read_text("utf-8"))
        kind = config.get("model_type")
        require(kind in TOWERS, f"{folder} holds a model of type {kind!r}", f"one of {', '.join(TOWERS)}")
        found = self.identity({"path": path})
        same = known in (None, found)
        cure = f"say where that one is by {_ELSEWHERE}"
        require(same, f"{folder} holds another encoder than training had", f"{str(known)[:12]}…", cure)
        require(min(features, width, length) >= 1, f"{features=}, {width=}, {length=}", "positive sizes")
        try:
            tower = TOWERS[kind](config.get("text_config", config))
        except KeyError as error:
            given = f"{folder / _FILES[0]} knows no {error}"
            raise ValueError(explain(given, "the config.json of a published model")) from None
        tower.load_state_dict(_weights(folder / _FILES[2], tower))
        self._tower = [tower.eval().requires_grad_(False)]  # no module of this one: neither moved nor saved with it
        self._texts = optional("tokenizers", "text", "a pretrained text encoder").Tokenizer.from_file(
            str(folder / _FILES[1])
        )
        self._texts.no_padding()
        self._texts.no_truncation()
        self.features, self.width, self.length = features, width, min(length, tower.longest)
        self.token, self.vector = nn.Linear(tower.width, width), nn.Linear(tower.width, features)
        self._said: dict[tuple[int, ...], Tensor] = {}
        ends = len(self._texts.encode("").ids)
        require(self.length > ends, f"text.length={length}", f"more than the {ends} tokens that mark a text's ends")

    def __deepcopy__(self, memo: dict[int, Any]) -> PretrainedEncoder:
        """Return a copy with layers of its own; the frozen tower and what it said are shared."""
        memo |= {id(shared): shared for shared in (self._tower, self._texts, self._said)}
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return made

    @classmethod
    def identity(cls, options: Mapping[str, Any]) -> str | None:
        """Return the SHA-256 of the three files together; None where one is missing."""
        digest, folder = new_digest(), _folder(options["path"])
        for file in (folder / name for name in _FILES):
            if not file.is_file():
                return None
            with file.open("rb") as opened:
                while part := opened.read(1 << 20):
                    digest.update(part)
        return str(digest.hexdigest())

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of texts, (B, length) int64, padded with -1."""
        found = torch.full((len(texts), self.length), -1)
        for row, text in zip(found, texts, strict=True):
            require(text.strip(), f"the text {text!r}", "words", "say what to do")
            ids = self._texts.encode(text).ids
            given = f"the text {text[:60]!r} of {len(ids)} tokens"
            require(len(ids) <= self.length, given, f"at most {self.length}", "say it shorter, or raise text.length")
            row[: len(ids)] = torch.tensor(ids)
        return found

    @property
    def example(self) -> str:
        """A word."""
        return "go"

    def null(self, ids: Tensor) -> Tensor:
        """Return the ids of the empty text."""
        empty = self._texts.encode("").ids or [0]
        none = torch.full_like(ids, -1)
        none[:, : len(empty)] = torch.tensor(empty, device=ids.device)
        return none

    def forward(self, ids: Tensor) -> Told:
        mask = ids >= 0
        said = torch.stack([self._of(row) for row in ids.tolist()])
        said = said.to(self.token.weight)
        mean = said.sum(1) / mask.sum(1, keepdim=True)
        return Told(self.vector(mean), self.token(said) * mask[..., None], mask)

    @torch.no_grad()
    def _of(self, row: list[int]) -> Tensor:
        """The tower's answer (L, W) to one text, 0 in its padding, computed once."""
        key = tuple(one for one in row if one >= 0)
        if key not in self._said:
            if len(self._said) == _REMEMBERED:
                self._said.clear()
            (tower,) = self._tower
            with torch.autocast("cpu", enabled=False):
                self._said[key] = tower(torch.tensor([key]))[0]
        said = self._said[key]
        return torch.cat([said, said.new_zeros(len(row) - len(key), said.shape[1])])


def _folder(path: str) -> Path:
    """Where an encoder lies: `path`, or as the environment says, which may name the folder that holds several."""
    elsewhere = os.environ.get(_ELSEWHERE)
    if not elsewhere:
        return Path(path).expanduser()
    named = Path(elsewhere).expanduser()
    inside = named / Path(path).name
    return inside if path and inside.is_dir() else named


def _weights(file: Path, tower: nn.Module) -> dict[str, Tensor]:
    """The weights of a published file, by the names of the tower."""
    from safetensors.torch import load_file

    published: dict[str, Any] = load_file(file)
    if "shared.weight" in published:  # T5's embedding, which encoder and decoder share
        published.setdefault("encoder.embed_tokens.weight", published["shared.weight"])
    prefix, names = str(tower.prefix), tower.state_dict().keys()
    found = {}
    for name in names:
        source = next((one for one in (prefix + name, name) if one in published), None)
        if source is None:
            raise ValueError(explain(f"{file} lacks {prefix}{name}", "the weights of the model in its config.json"))
        found[name] = published[source].float()
    return found
