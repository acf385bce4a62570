"""The commands that publish a memory bank for others, and fetch one: bank push, bank pull."""

from __future__ import annotations

import logging

from fungi_seg.errors import UsageError

HUB = "hf://"

log = logging.getLogger(__name__)


def push(address: str, bank: str, license: str | None = None, private: bool = False) -> None:
    """Publish a bank on the Hugging Face hub, or in an object store.

    Args:
        address: hf://user/name or hf://datasets/user/name; s3://bucket/name.
        bank: folder of the bank.
        license: what others may use it for, as the hub calls it, such as cc-by-4.0; said on its page on the hub.
        private: a repository that is made on the hub is seen by you alone.
    """
    if not address.startswith(HUB) and (license or private):
        raise UsageError(f"--license and --private are of the hub, hf://user/name; leave them out for {address}")
    from fungi_seg.bank import MemoryBank
    from fungi_seg.storage import is_address

    opened = MemoryBank.open(bank)
    if address.startswith(HUB):
        from fungi_seg.integrations import push_to_hub

        done = push_to_hub(opened, address, license, private)
        if license is None:
            log.warning("%s: its page says that its licence is not stated; say it with --license", address)
        print(f"{address}: {len(opened)} rows of {len(opened.info.sources)} images; {done}")
    elif is_address(address):
        print(f"{opened.export(address)}: {len(opened)} rows of {len(opened.info.sources)} images")
    else:
        raise UsageError(f"{address}: not an address such as hf://user/name; a file is written by bank export")


def pull(address: str, out: str, revision: str | None = None) -> None:
    """Fetch a bank that others published, and check every byte of it.

    Args:
        address: hf://user/name or hf://datasets/user/name; s3://bucket/name.
        out: folder for the bank, new or empty.
        revision: of a repository on the hub: a branch, a tag or a commit.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.storage import is_address

    if address.startswith(HUB):
        from fungi_seg.integrations import pull_from_hub

        made = pull_from_hub(address, out, revision)
    elif revision is not None:
        raise UsageError(f"--revision is of the hub, hf://user/name; leave it out for {address}")
    elif is_address(address):
        made = MemoryBank.import_file(address, out)
    else:
        raise UsageError(f"{address}: not an address such as hf://user/name; copy a folder by other means")
    print(f"{out}: {len(made)} rows of {len(made.info.sources)} images")
