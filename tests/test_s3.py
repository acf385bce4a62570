"""Banks on S3, spoken for real with a server on this machine, on good days and bad ones."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from faulty import BUSY, Fault, Front
from moto.server import ThreadedMotoServer

from fungi_seg import BankError, MemoryBank
from fungi_seg.cli import main
from fungi_seg.errors import StoreError
from fungi_seg.storage import Store

pytestmark = pytest.mark.ray
ADDRESS = "s3://bucket/banks/nuclei"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    front = Front(f"http://{host}:{port}")
    yield front
    front.close()
    server.stop()


def client(front: Front) -> Any:
    return boto3.client("s3", endpoint_url=front.url, region_name="us-east-1")


@pytest.fixture(autouse=True)
def s3(front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty bucket, no mirrors, and a client that is quick to give up."""
    settings = {
        "AWS_ENDPOINT_URL": front.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
        "FUNGI_SEG_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    front.faults.clear()
    front.before = lambda method, path: None
    opened = client(front)
    opened.create_bucket(Bucket="bucket")
    front.seen.clear()
    yield opened
    front.faults.clear()
    front.before = lambda method, path: None
    for item in opened.list_objects_v2(Bucket="bucket").get("Contents", []):
        opened.delete_object(Bucket="bucket", Key=item["Key"])


@pytest.fixture
def remote(bank: MemoryBank) -> MemoryBank:
    bank.export(ADDRESS)
    return MemoryBank.open(ADDRESS)


def contents(s3: Any) -> dict[str, str]:
    return {item["Key"]: item["ETag"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]}


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUNGI_SEG_CACHE", str(tmp_path / "other"))


def test_from_machine_to_machine(remote: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: Any) -> None:
    smaller = remote.remove(["train_0"])
    elsewhere(monkeypatch, tmp_path)
    back = MemoryBank.open(ADDRESS).undo()
    assert len(back) == len(remote) > len(smaller)
    assert back.compact().verify() == []
    names = {key.rpartition("/")[2] for key in contents(s3)}
    assert names == {"bank.json", *(entry.file for entry in MemoryBank.open(ADDRESS).manifest.entries())}


def test_a_busy_store_is_asked_again(remote: MemoryBank, front: Front) -> None:
    shutil.rmtree(remote.path)
    front.faults += [Fault("GET", "keys-", 503, times=1), Fault("PUT", "bank.json", 503, times=1)]
    assert "train_0" not in MemoryBank.open(ADDRESS).remove(["train_0"]).info.sources
    assert [fault.times for fault in front.faults] == [0, 0]
    assert MemoryBank.open(ADDRESS).verify() == []


@pytest.mark.parametrize(("method", "part"), [("PUT", "table-"), ("PUT", "bank.json"), ("GET", "list-type")])
def test_a_store_that_stays_busy(remote: MemoryBank, front: Front, s3: Any, method: str, part: str) -> None:
    before = contents(s3)
    front.faults.append(Fault(method, part, 503))
    with pytest.raises(StoreError, match=r"s3://bucket/banks/nuclei.*the store can't be reached .*again later"):
        remote.remove(["train_0"])
    front.faults.clear()
    assert before.items() <= contents(s3).items()
    assert MemoryBank.open(ADDRESS).verify() == []
    assert "train_0" not in remote.remove(["train_0"]).info.sources


def test_fetching_from_a_busy_store(remote: MemoryBank, front: Front) -> None:
    shutil.rmtree(remote.path)
    front.faults.append(Fault("GET", "keys-", 503))
    with pytest.raises(StoreError, match=r"s3://bucket/banks/nuclei/keys-.*the store can't be reached"):
        MemoryBank.open(ADDRESS)
    assert not any(file.name.startswith(("keys-", ".get-", "bank")) for file in remote.path.iterdir())
    front.faults.clear()
    assert MemoryBank.open(ADDRESS).verify() == []


def test_a_download_cut_off_goes_on(remote: MemoryBank, front: Front) -> None:
    shutil.rmtree(remote.path)
    front.faults.append(Fault("GET", "keys-", 0, times=1))
    assert MemoryBank.open(ADDRESS).verify() == []
    assert front.faults[0].times == 0


def test_a_download_that_is_always_cut_off(remote: MemoryBank, front: Front) -> None:
    shutil.rmtree(remote.path)
    front.faults.append(Fault("GET", "keys-", 0))
    with pytest.raises(StoreError, match=r"s3://bucket/banks/nuclei/keys-.*the store can't be reached"):
        MemoryBank.open(ADDRESS)
    assert not any(remote.path.glob("*keys-*"))


def test_access_is_refused(remote: MemoryBank, front: Front) -> None:
    body = BUSY.replace(b"ServiceUnavailable", b"InvalidAccessKeyId").replace(b"busy", b"no such key id")
    front.faults.append(Fault("GET", "bank.json", 403, body=body))
    with pytest.raises(StoreError, match=r"access is refused .*no such key id.*AWS_ACCESS_KEY_ID"):
        MemoryBank.open(ADDRESS)
    front.faults[:] = [Fault("PUT", "", 403, body=BUSY.replace(b"ServiceUnavailable", b"AccessDenied"))]
    with pytest.raises(StoreError, match=r"s3://bucket/banks/nuclei/.*access is refused"):
        remote.remove(["train_0"])


def test_nobody_is_who_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match=r"access is refused .*credentials.*AWS_ACCESS_KEY_ID"):
        MemoryBank.open(ADDRESS)


def test_no_such_bucket(bank: MemoryBank) -> None:
    for act in (lambda: MemoryBank.open("s3://nowhere/x"), lambda: bank.export("s3://nowhere/x")):
        with pytest.raises(StoreError, match=r"s3://nowhere/x.*: no such bucket"):
            act()


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    with pytest.raises(StoreError, match=r"s3://bucket/banks/nuclei/bank.json: the store can't be reached"):
        MemoryBank.open(ADDRESS)


def test_of_two_who_publish_at_the_same_moment_one_is_told(
    remote: MemoryBank, front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other's manifest arrives between the last look at the store and the own one: the store itself refuses."""

    def other(method: str, path: str) -> None:
        if method == "PUT" and path.partition("?")[0].endswith("bank.json"):
            front.before = lambda method, path: None
            code = f"""
                from fungi_seg import MemoryBank
                MemoryBank.open({ADDRESS!r}).remove(["train_0"])
            """
            settings = os.environ | {"FUNGI_SEG_CACHE": str(tmp_path / "other")}
            subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=settings, check=True)

    front.before = other
    with pytest.raises(BankError, match="the bank was changed by someone else meanwhile"):
        remote.relabel({remote.info.classes[1]: "renamed"})
    now = MemoryBank.open(ADDRESS)
    assert "train_0" not in now.info.sources
    assert "renamed" not in now.info.classes
    assert now.verify() == []


def test_a_store_that_does_not_compare(remote: MemoryBank, front: Front, s3: Any) -> None:
    body = BUSY.replace(b"ServiceUnavailable", b"NotImplemented")
    front.faults.append(Fault("PUT", "bank.json", 501, times=1, body=body))
    assert "train_0" not in remote.remove(["train_0"]).info.sources
    assert "train_0" not in MemoryBank.open(ADDRESS).info.sources


@pytest.mark.parametrize("part", ["table-", "bank.json"])
def test_a_writer_that_is_killed(remote: MemoryBank, front: Front, s3: Any, part: str, tmp_path: Path) -> None:
    """While a file is on its way: the old bank stays, and the same command then does it."""
    before, code = contents(s3), f'from fungi_seg import MemoryBank; MemoryBank.open({ADDRESS!r}).remove(["train_0"])'
    settings = os.environ | {"FUNGI_SEG_CACHE": str(tmp_path / "other")}
    child = subprocess.Popen([sys.executable, "-c", code], env=settings)

    def kill(method: str, path: str) -> bool:
        if method == "PUT" and part in path:
            child.send_signal(signal.SIGKILL)
            child.wait()
            front.before = lambda method, path: None
            return False
        return True

    front.before = kill
    assert child.wait(120) == -signal.SIGKILL
    assert before.items() <= contents(s3).items()
    subprocess.run([sys.executable, "-c", code], env=settings, check=True)
    assert "train_0" not in MemoryBank.open(ADDRESS).info.sources
    assert MemoryBank.open(ADDRESS).verify() == []


def test_files_of_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger than what goes in one request."""
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 110)
    store = Store("s3://bucket/large")
    store.send(tmp_path / "large", "a/b")
    assert store.sizes() == {"a/b": 110 << 20}
    assert store.names() == ["a"]
    assert store.fetch("a/b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


def test_commands(bank: MemoryBank, capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path) -> None:
    assert main(["bank", "export", "--bank", str(bank.path), "--file", ADDRESS]) == 0
    assert main(["bank", "remove", "--bank", ADDRESS, "--ids", "train_0"]) == 0
    assert main(["bank", "undo", "--bank", ADDRESS]) == 0
    out = str(tmp_path / "out")
    assert main(["segment", str(photo.parent), "--bank", ADDRESS, "--out", out]) == 0
    assert (tmp_path / "out" / "masks" / "photo.png").is_file()
    capsys.readouterr()
    assert main(["bank", "verify", "--bank", "s3://nowhere/x"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
