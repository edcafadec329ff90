"""Files of the Hugging Face Hub by address, hf://user/repo: downloaded once, and kept in the hub's own cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from diffpolicy.util import files
from diffpolicy.util.errors import explain, require
from diffpolicy.util.optional import optional

_ADDRESS = re.compile(
    r"hf:/{1,2}(?:(?:datasets|models)/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<inside>.+))?"
)


class Address(NamedTuple):
    """Where something is on the hub.

    Args:
        repo: user/name.
        revision: branch, tag or commit; None is the main branch.
        inside: path in the repository; None is all of it.
    """

    repo: str
    revision: str | None
    inside: str | None


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address on the hub, also where `Path` has joined its slashes."""
    return str(path).startswith("hf:/")


def parse(path: str | os.PathLike[str]) -> Address:
    """Return the parts of an address.

    Raises:
        ValueError: no address.
    """
    found = _ADDRESS.fullmatch(str(path))
    if found is None:
        raise ValueError(explain(f"{path} is no address", "hf://user/repo, hf://user/repo@revision/folder"))
    return Address(*found.group("repo", "revision", "inside"))


def download(path: str | os.PathLike[str], kind: str, patterns: Sequence[str] | None = None) -> Path:
    """Return the local copy of what an address names; what is there already is not downloaded again.

    Args:
        path: hf://user/repo, with @revision and a folder if wanted.
        kind: "model" or "dataset".
        patterns: of the files that are wanted; None takes all.

    Raises:
        ValueError: no address.
        FileNotFoundError: no such repository, revision or folder, or one that asks for a login.
        OSError: the hub cannot be reached, and the cache does not hold it.
        ImportError: huggingface_hub is missing.
    """
    repo, revision, inside = parse(path)
    hub = library()
    wanted = patterns if inside is None else [f"{inside}/{pattern}" for pattern in patterns or ("*",)]
    with _in_words(path):
        folder = hub.snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=wanted, endpoint=os.environ.get("HF_ENDPOINT")
        )
    local = Path(folder) / (inside or "")
    require(local.exists(), f"{path} holds no {inside}", error=FileNotFoundError)
    return local


def local(path: str | os.PathLike[str], kind: str, patterns: Sequence[str] | None = None) -> Path:
    """Return where a path is on this machine, which for an address is what `download` returns."""
    return download(path, kind, patterns) if is_address(path) else Path(path).expanduser()


def name_of(path: str | os.PathLike[str]) -> str:
    """Return what to call something: an address as it is, and a path by its last part."""
    return f"hf://{str(path)[3:].lstrip('/')}" if is_address(path) else Path(path).name


def upload(folder: Path, path: str, kind: str, message: str, private: bool) -> str:
    """Upload the files of a folder to a repository, which is made if there is none, and return its page's address.

    Args:
        folder: what to upload.
        path: hf://user/repo.
        kind: "model" or "dataset".
        message: of the commit.
        private: whether a new repository is seen by its owner alone.

    Raises:
        ValueError: no address, or one with a folder.
        FileNotFoundError: no such user, or no right to write there.
        OSError: the hub cannot be reached.
    """
    repo, revision, inside = parse(path)
    require(inside is None, f"{path} names a folder", "hf://user/repo")
    api = library().HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _in_words(path):
        url = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, repo_type=kind, revision=revision, commit_message=message)
    return str(url)


def library() -> ModuleType:
    """Return huggingface_hub. Raises ImportError, with the line that installs it, if it is missing."""
    return optional("huggingface_hub", "hub")


@contextmanager
def _in_words(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of the hub's library into sentences."""
    from huggingface_hub import errors

    missing = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError)
    try:
        yield
    except Exception as error:  # the library's own HTTP client raises errors of its own
        refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403)
        if (isinstance(error, missing) and not isinstance(error, errors.LocalEntryNotFoundError)) or refused:
            cure = "check the address, and log in with `hf auth login` if it is private"
            raise FileNotFoundError(explain(f"{path} is not on the hub, or not for you", cure=cure)) from error
        if files.is_disk_full(error):
            raise
        (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
        says = f"{path}: the hub did not answer as it should ({reason})"
        raise OSError(explain(says, cure="try again later")) from error
