"""Banks on the hub, by its own library and a stand-in of the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml
from faulty import Fault, Front
from hub import OWNER, STRANGER, Hub, Repo
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from fungi_seg import BankError, MemoryBank
from fungi_seg.cli import main
from fungi_seg.errors import StoreError, UsageError
from fungi_seg.integrations import pull_from_hub, push_to_hub
from fungi_seg.storage import store

ADDRESS, ENDPOINT = "hf://user/nuclei", constants.ENDPOINT


class Hurried:
    """The module `time`, but nobody sleeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        pass


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Hub, Front]]:
    hub = Hub()
    front = Front(hub.url)
    yield hub, front
    front.close()
    hub.close()


@pytest.fixture
def front(servers: tuple[Hub, Front]) -> Front:
    return servers[1]


@pytest.fixture(autouse=True)
def hub(servers: tuple[Hub, Front], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """An empty hub; whoever asks is the owner."""
    hub, front = servers
    hub.repos.clear()
    hub.large.clear()
    front.faults.clear()
    front.seen.clear()
    front.before = lambda method, path: None
    monkeypatch.setattr(constants, "ENDPOINT", front.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", front.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http, "time", Hurried())
    monkeypatch.setattr(file_download, "time", Hurried())
    monkeypatch.setattr(store, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setenv("FUNGI_SEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.HfFileSystem.clear_instance_cache()
    huggingface_hub.close_session()
    return hub


def files(hub: Hub, name: str = "models/user/nuclei") -> dict[str, bytes]:
    found = hub.repos[name].at("main")
    assert found
    return found[1]


@pytest.mark.parametrize("address", [ADDRESS, "hf://datasets/user/nuclei"])
def test_a_bank_goes_there_and_comes_back(bank: MemoryBank, hub: Hub, tmp_path: Path, address: str) -> None:
    assert "/commit/" in push_to_hub(bank, address)
    made = pull_from_hub(address, str(tmp_path / "bank"))
    assert {f.name: f.read_bytes() for f in made.path.iterdir()} == {
        f.name: f.read_bytes() for f in bank.path.iterdir()
    }
    assert len(next(iter(hub.repos.values())).commits) == 2  # that of the new repository, and one of the bank
    assert next(iter(hub.repos)).startswith("datasets" if "datasets" in address else "models")


def test_the_page_says_what_it_is(bank: MemoryBank, hub: Hub) -> None:
    push_to_hub(bank, ADDRESS, "cc-by-4.0", private=True)
    assert hub.repos["models/user/nuclei"].private
    _, front, text = files(hub)["README.md"].decode().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "cc-by-4.0"
    assert told["library_name"] == "fungi-seg"
    assert "memory-bank" in told["tags"]
    for name, rows in zip(bank.info.classes, bank.class_rows(), strict=True):
        assert f"| {name} | {rows} |" in text
    assert bank.info.fingerprint in text
    assert bank.info.backbone.name in text
    assert f"images: {len(bank.info.sources)}" in text
    assert f"fungi-seg bank pull {ADDRESS} --out nuclei" in text
    push_to_hub(bank, ADDRESS)
    text = files(hub)["README.md"].decode()
    assert "license: unknown\n" in text
    assert "licence: not stated" in text


def test_a_changed_bank_takes_the_place_of_the_old_one(bank: MemoryBank, hub: Hub, tmp_path: Path) -> None:
    copy = MemoryBank.import_file(bank.export(tmp_path / "bank.tar"), tmp_path / "copy")
    push_to_hub(copy, ADDRESS)
    first, seen = list(hub.repos["models/user/nuclei"].commits)[-1], len(hub.large)
    changed = copy.remove(["train_0"])
    push_to_hub(changed, ADDRESS)
    names = {entry.file for entry in changed.manifest.entries()}
    assert files(hub).keys() == {*names, "bank.json", "README.md", ".gitattributes"}
    assert len(hub.large) == seen + len(names - {entry.file for entry in copy.manifest.entries()})
    assert len(pull_from_hub(ADDRESS, str(tmp_path / "new"))) == len(changed)
    assert len(pull_from_hub(ADDRESS, str(tmp_path / "old"), revision=first)) == len(bank)
    assert len(pull_from_hub(f"{ADDRESS}@{first}", str(tmp_path / "older"))) == len(bank)
    with pytest.raises(UsageError, match=r"names revision .*; leave one out"):
        pull_from_hub(f"{ADDRESS}@{first}", str(tmp_path / "x"), revision="main")
    with pytest.raises(StoreError, match=r"hf://user/nuclei: no such revision there"):
        pull_from_hub(ADDRESS, str(tmp_path / "x"), revision="nothing")


def test_it_is_read_at_its_address_but_not_changed_there(bank: MemoryBank, hub: Hub) -> None:
    push_to_hub(bank, ADDRESS)
    opened = MemoryBank.open(ADDRESS)
    assert opened.verify() == []
    np.testing.assert_array_equal(opened.rows.source, bank.rows.source)
    with pytest.raises(BankError, match=r"hf://user/nuclei: a bank on a hub isn't changed in its place; .*bank pull"):
        opened.remove(["train_0"])


@pytest.mark.parametrize("address", ["hf://nuclei", "hf://user/nuclei/banks/x", "hf://spaces/user/nuclei"])
def test_names_that_are_none(bank: MemoryBank, tmp_path: Path, address: str) -> None:
    for act in (lambda: push_to_hub(bank, address), lambda: pull_from_hub(address, str(tmp_path / "x"))):
        with pytest.raises(UsageError, match=f"{address}: names no repository"):
            act()


def test_a_bank_is_published_on_the_main_branch(bank: MemoryBank) -> None:
    with pytest.raises(UsageError, match="leave out @v1"):
        push_to_hub(bank, f"{ADDRESS}@v1")


def test_no_such_repository(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"hf://user/nuclei: no such repository, or none that you may see.*HF_TOKEN"):
        pull_from_hub(ADDRESS, str(tmp_path / "x"))
    with pytest.raises((BankError, StoreError), match=r"hf://user/nuclei"):
        MemoryBank.open(ADDRESS)
    assert not (tmp_path / "x").exists()


def test_who_may_not(bank: MemoryBank, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    push_to_hub(bank, ADDRESS, private=True)
    before = files(hub)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(StoreError, match=r"hf://user/nuclei: .*HF_TOKEN"):
        push_to_hub(bank, ADDRESS)
    with pytest.raises(StoreError, match=r"hf://user/other: access is refused .*HF_TOKEN"):
        push_to_hub(bank, "hf://user/other")
    with pytest.raises(StoreError, match=r"no such repository, or none that you may see"):
        pull_from_hub(ADDRESS, str(tmp_path / "x"))
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(StoreError, match=r"hf://user/other: .*HF_TOKEN"):
        push_to_hub(bank, "hf://user/other")
    assert files(hub) == before


def test_something_else_is_there(bank: MemoryBank, hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["models/user/nuclei"] = Repo()
    repo.commit({"README.md": b"# weights", "model.safetensors": b"x"})
    with pytest.raises(BankError, match=r"hf://user/nuclei: there is something else already.*\n  model.safetensors"):
        push_to_hub(bank, ADDRESS)
    with pytest.raises(BankError, match=r"hf://user/nuclei: no memory bank there"):
        pull_from_hub(ADDRESS, str(tmp_path / "x"))
    assert len(repo.commits) == 1


def test_the_target_is_taken(bank: MemoryBank) -> None:
    with pytest.raises(BankError, match="there is a bank already"):
        pull_from_hub(ADDRESS, str(bank.path))


def test_an_unknown_licence(bank: MemoryBank, hub: Hub) -> None:
    with pytest.raises(StoreError, match=r"the hub doesn't take this .*mine isn't a licence"):
        push_to_hub(bank, ADDRESS, "mine")
    assert files(hub).keys() == {".gitattributes"}


def test_a_push_in_between(bank: MemoryBank, hub: Hub, front: Front) -> None:
    push_to_hub(bank, ADDRESS)

    def other(method: str, path: str) -> None:
        if "/commit/" in path:
            hub.repos["models/user/nuclei"].commit({"bank.json": b"theirs"})

    front.before = other
    with pytest.raises(StoreError, match="the repository was changed by someone else meanwhile"):
        push_to_hub(bank, ADDRESS)
    assert files(hub)["bank.json"] == b"theirs"


@pytest.mark.parametrize(
    ("method", "part", "status", "said"),
    [
        ("PUT", "/large/", 503, "can't be reached or doesn't do what it should"),
        ("POST", "/commit/", 503, "can't be reached or doesn't do what it should"),
        ("POST", "/commit/", 429, "takes no more requests from you for a while"),
        ("POST", "/preupload/", 403, "access is refused"),
    ],
)
def test_a_push_that_fails(
    bank: MemoryBank, hub: Hub, front: Front, tmp_path: Path, method: str, part: str, status: int, said: str
) -> None:
    """Nothing of it is seen, and the same again does it."""
    front.faults.append(Fault(method, part, status))
    with pytest.raises(StoreError, match=f"hf://user/nuclei: .*{said}"):
        push_to_hub(bank, ADDRESS)
    assert files(hub).keys() == {".gitattributes"}
    front.faults.clear()
    push_to_hub(bank, ADDRESS)
    assert pull_from_hub(ADDRESS, str(tmp_path / "bank")).verify() == []


def test_a_busy_hub_is_asked_again(bank: MemoryBank, hub: Hub, front: Front, tmp_path: Path) -> None:
    front.faults += [Fault("PUT", "/large/", 503, times=2), Fault("GET", "keys-", 503, times=2)]
    push_to_hub(bank, ADDRESS)
    assert pull_from_hub(ADDRESS, str(tmp_path / "bank")).verify() == []
    assert [fault.times for fault in front.faults] == [0, 0]


@pytest.mark.parametrize("status", [503, 0])
def test_a_pull_that_fails(bank: MemoryBank, front: Front, tmp_path: Path, status: int) -> None:
    """Busy, or always cut off: nothing is left, and the same again does it."""
    push_to_hub(bank, ADDRESS)
    front.faults.append(Fault("GET", "keys-", status))
    with pytest.raises(StoreError, match=r"hf://user/nuclei@.*/keys-.*: the store can't be reached"):
        pull_from_hub(ADDRESS, str(tmp_path / "bank"))
    assert not (tmp_path / "bank").exists()
    front.faults.clear()
    assert pull_from_hub(ADDRESS, str(tmp_path / "bank")).verify() == []


def test_a_damaged_file_is_not_taken(bank: MemoryBank, hub: Hub, tmp_path: Path) -> None:
    push_to_hub(bank, ADDRESS)
    name = next(name for name in files(hub) if name.startswith("keys-"))
    files(hub)[name] = files(hub)[name][:-1] + b"?"
    with pytest.raises(BankError, match=f"{name}: damaged or cut off"):
        pull_from_hub(ADDRESS, str(tmp_path / "bank"))
    assert not (tmp_path / "bank").exists()


def test_nobody_listens(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for act in (lambda: push_to_hub(bank, ADDRESS), lambda: pull_from_hub(ADDRESS, str(tmp_path / "x"))):
        with pytest.raises(StoreError, match="hf://user/nuclei: the hub can't be reached"):
            act()


def test_commands(bank: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: Hub) -> None:
    assert main(["bank", "push", ADDRESS, "--bank", str(bank.path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{ADDRESS}: {len(bank)} rows of {len(bank.info.sources)} images; http://")
    assert "licence is not stated; say it with --license" in captured.err
    assert main(["bank", "push", ADDRESS, "--bank", str(bank.path), "--license", "apache-2.0"]) == 0
    assert "licence is not" not in capsys.readouterr().err
    assert main(["bank", "pull", ADDRESS, "--out", str(tmp_path / "here")]) == 0
    assert main(["bank", "push", "memory://bucket/x", "--bank", str(bank.path)]) == 0
    assert main(["bank", "pull", "memory://bucket/x", "--out", str(tmp_path / "there")]) == 0
    assert len(MemoryBank.open(tmp_path / "there")) == len(bank)
    capsys.readouterr()
    for wrong, said in (
        (["push", "memory://bucket/y", "--license", "x", "--bank", str(bank.path)], "--license and --private are of"),
        (["push", str(tmp_path), "--bank", str(bank.path)], "not an address such as hf://user/name"),
        (["pull", "memory://bucket/x", "--revision", "x", "--out", "y"], "--revision is of the hub"),
        (["pull", str(tmp_path), "--out", "y"], "not an address such as hf://user/name"),
    ):
        assert main(["bank", *wrong]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.ray
def test_a_push_that_is_killed(bank: MemoryBank, hub: Hub, front: Front, tmp_path: Path) -> None:
    """By a process of its own, as users start it: nothing of it is seen, and the same command again does it."""
    settings = os.environ | {"HF_ENDPOINT": front.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": OWNER}
    command = [sys.executable, "-m", "fungi_seg", "bank", "push", ADDRESS, "--bank", str(bank.path)]
    child = subprocess.Popen(command, env=settings)

    def kill(method: str, path: str) -> bool:
        if "/commit/" in path:
            child.send_signal(signal.SIGKILL)
            child.wait()
            front.before = lambda method, path: None
            return False
        return True

    front.before = kill
    assert child.wait(120) == -signal.SIGKILL
    assert files(hub).keys() == {".gitattributes"}
    subprocess.run(command, env=settings, check=True)
    pull = [sys.executable, "-m", "fungi_seg", "bank", "pull", ADDRESS, "--out", str(tmp_path / "bank")]
    subprocess.run(pull, env=settings, check=True)
    assert MemoryBank.open(tmp_path / "bank").verify() == []
