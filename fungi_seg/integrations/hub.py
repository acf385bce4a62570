"""Banks on the Hugging Face hub: published in one commit, fetched from one, and checked before they count."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fungi_seg.bank import MANIFEST, MemoryBank, check_target, of_a_bank
from fungi_seg.errors import BankError, FungiSegError, StoreError, UsageError, listing, reason
from fungi_seg.integrations.card import card

ADDRESS = re.compile(r"hf://(?:(models|datasets)/)?([^/@]+/[^/@]+)(?:@(.+))?")
CARD = "README.md"
OF_THE_HUB = (CARD, ".gitattributes", "LICENSE")  # files that may be there before a bank is
LOGIN = "log in with hf auth login, or put a token into the environment variable HF_TOKEN"


@dataclass(frozen=True)
class Repository:
    """A repository on the hub.

    Attributes:
        name: `user/name`.
        kind: `model` or `dataset`.
        revision: branch, tag or commit; none is the main branch.
    """

    name: str
    kind: str
    revision: str | None

    @classmethod
    def at(cls, address: str) -> Repository:
        """The one that an address names.

        Raises:
            UsageError: it names none.
        """
        found = ADDRESS.fullmatch(address.rstrip("/"))
        if not found:
            raise UsageError(
                f"{address}: names no repository of a user or an organisation; write hf://user/name, or "
                f"hf://datasets/user/name"
            )
        return cls(found[2], "dataset" if found[1] == "datasets" else "model", found[3])

    @property
    def address(self) -> str:
        """Of the repository itself."""
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def push_to_hub(bank: MemoryBank, address: str, licence: str | None = None, private: bool = False) -> str:
    """Publish a bank in one commit; the repository is made if there is none, and holds the bank alone.

    Its files that the bank doesn't name any more go in the same commit; earlier states of the bank stay behind.

    Args:
        bank: an open bank.
        address: `hf://user/name` or `hf://datasets/user/name`.
        licence: what the bank may be used for, as the hub calls it (`cc-by-4.0`).
        private: where the repository is made, others can't see it.

    Returns:
        Address of the commit, for a browser.

    Raises:
        UsageError: no such address.
        BankError: the bank is damaged, or the repository holds something else, or was changed meanwhile.
        StoreError: the hub can't be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    repository = Repository.at(address)
    if repository.revision:
        raise UsageError(f"{address}: a bank is published on the main branch; leave out @{repository.revision}")
    bank.contents.check_files()
    api, where = HfApi(), {"repo_id": repository.name, "repo_type": repository.kind}
    with _telling(repository):
        api.create_repo(**where, private=private, exist_ok=True)
        info = api.repo_info(**where)
        there = {sibling.rfilename for sibling in info.siblings or ()}
        others = sorted(there - {*OF_THE_HUB})
        if MANIFEST not in there and others:
            raise BankError(f"{address}: there is something else already; name another repository:\n{listing(others)}")
        files = {file.entry.alone.file: file.path for file in bank.contents.files.values()}
        text = {MANIFEST: bank.manifest.alone.text(), CARD: card(bank, repository.address, licence).encode()}
        operations: list[Any] = [
            CommitOperationAdd(name, str(path)) for name, path in files.items() if name not in there
        ]
        operations += [CommitOperationAdd(name, content) for name, content in text.items()]
        gone = [name for name in others if of_a_bank(name) and name not in files]
        operations += [CommitOperationDelete(name) for name in gone]
        message = f"Memory bank, {len(bank)} rows of {len(bank.info.sources)} images"
        done = api.create_commit(**where, operations=operations, commit_message=message, parent_commit=info.sha)
        return str(done.commit_url)


def pull_from_hub(address: str, out: str, revision: str | None = None) -> MemoryBank:
    """Fetch a bank into a new folder, each file checked before it becomes a bank.

    Args:
        address: `hf://user/name`, `hf://datasets/user/name`, either maybe with `@revision`.
        out: folder or address for the bank.
        revision: branch, tag or commit, if the address says none; the main branch where neither does.

    Raises:
        UsageError: no such address, or two revisions.
        BankError: no bank there, a damaged one, or `out` is taken.
        StoreError: the hub can't be reached or refuses.
    """
    from huggingface_hub import HfApi

    repository = Repository.at(address)
    if revision and repository.revision:
        raise UsageError(f"{address}: names revision {repository.revision}, --revision {revision}; leave one out")
    check_target(out, overwrite=False)
    with _telling(repository):
        info = HfApi().repo_info(
            repository.name, repo_type=repository.kind, revision=revision or repository.revision or "main"
        )
        names = sorted(sibling.rfilename for sibling in info.siblings or ())
        if MANIFEST not in names:
            raise BankError(f"{address}: no memory bank there (no {MANIFEST}); it holds:\n{listing(names)}")
    return MemoryBank.import_file(f"{repository.address}@{info.sha}", out)  # a later push doesn't get in between


@contextmanager
def _telling(repository: Repository) -> Iterator[None]:
    """What the library raises inside becomes a StoreError."""
    try:
        yield
    except FungiSegError:
        raise
    except Exception as error:  # of many kinds, some of the library under it
        raise StoreError(f"{repository.address}: {_told(error)}") from error


def _told(error: Exception) -> str:
    from huggingface_hub import errors

    cause = next((e for e in (error, error.__cause__) if isinstance(e, errors.HfHubHTTPError)), None)
    status = cause.response.status_code if cause is not None and cause.response is not None else None
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no such revision there ({reason(error)})"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f"access is refused ({reason(error)}); ask the owner for access, and {LOGIN}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"no such repository, or none that you may see; correct the name, or {LOGIN} ({reason(error)})"
    if status in (409, 412):
        return f"the repository was changed by someone else meanwhile; call the same again ({reason(error)})"
    if status == 429:
        return f"the hub takes no more requests from you for a while; wait some minutes ({reason(error)})"
    if isinstance(error, ValueError):
        return f"the hub doesn't take this ({' '.join(str(error).split())})"
    return (
        f"the hub can't be reached or doesn't do what it should ({reason(error)}); see whether the network is right, "
        f"and call the same again later"
    )
