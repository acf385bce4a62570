"""What the processor can do and how much memory is left, told by files of systems of all kinds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from fungi_seg import hardware
from fungi_seg.cli import main
from fungi_seg.hardware import free_memory, has_bfloat16, has_int8, is_out_of_memory, size_text, total_memory

GB = 10**9
UNLIMITED = 2**63 - 4096  # what version 1 of control groups says


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets the limit on addresses; none to begin with."""

    def set_limit(size: int | None) -> None:
        monkeypatch.setattr(hardware, "_address_limit", lambda: size)

    set_limit(None)
    return set_limit


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A machine of 16 GB of which 10 GB are available, without control groups."""
    meminfo = f"MemTotal: {16 * GB // 1024} kB\nMemFree: 1024 kB\nMemAvailable:  {10 * GB // 1024} kB\nHugePages: 0\n"
    write(tmp_path / "proc/meminfo", meminfo)
    write(tmp_path / "proc/self/statm", f"{GB // page()} 100 50 1 0 90 0\n")
    return tmp_path


def page() -> int:
    return int(hardware.os.sysconf("SC_PAGE_SIZE"))


def write(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n" if isinstance(text, int) else text)


def group_2(folder: Path, limit: int | str, used: int, files: int = 0, shared: int = 0) -> None:
    """A control group of version 2; `files` can be dropped, `shared` memory can't although it counts as a file."""
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", used)
    stat = (
        f"anon 1\nfile {files + shared}\nshmem {shared}\ninactive_file {files // 4}\nactive_file {files - files // 4}\n"
    )
    write(folder / "memory.stat", stat)


def group_1(folder: Path, limit: int, used: int, files: int = 0) -> None:
    """A control group of version 1, whose own figures leave out the groups below."""
    write(folder / "memory.limit_in_bytes", limit)
    write(folder / "memory.usage_in_bytes", used)
    own = "cache 7\ninactive_file 1\nactive_file 2\n"
    write(folder / "memory.stat", f"{own}total_inactive_file {files // 2}\ntotal_active_file {files - files // 2}\n")


def close(found: int | None, expected: int) -> bool:
    """Equal but for the whole pages and kB of the files."""
    return found is not None and abs(found - expected) < 10**5


def test_a_machine_by_itself(system: Path) -> None:
    assert close(free_memory(system), 10 * GB)
    assert close(total_memory(system), 16 * GB)


def test_a_system_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, which knows the size of the machine; Windows doesn't even tell that."""
    assert free_memory(tmp_path) is None
    monkeypatch.setattr(hardware.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert total_memory(tmp_path) == 4_096_000
    monkeypatch.delattr(hardware.os, "sysconf")
    assert total_memory(tmp_path) is None


def test_a_container_of_version_2(system: Path) -> None:
    """In a namespace of its own, where the group lies at the root."""
    write(system / "proc/self/cgroup", "0::/\n")
    group_2(system / "sys/fs/cgroup", 4 * GB, 3 * GB)
    assert free_memory(system) == GB
    assert total_memory(system) == 4 * GB


def test_files_that_can_be_dropped_count_as_free(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/\n")
    group_2(system / "sys/fs/cgroup", 4 * GB, 3 * GB, files=2 * GB, shared=GB // 2)
    assert free_memory(system) == 3 * GB


def test_groups_within_groups(system: Path) -> None:
    """The tightest of them all counts, whichever it is; `max` is none."""
    write(system / "proc/self/cgroup", "0::/slice/pod/container\n")
    root = system / "sys/fs/cgroup"
    group_2(root / "slice", 8 * GB, 7 * GB)
    group_2(root / "slice/pod", 3 * GB, GB)
    group_2(root / "slice/pod/container", "max", GB)
    assert free_memory(system) == GB
    assert total_memory(system) == 3 * GB


def test_version_1(system: Path) -> None:
    write(system / "proc/self/cgroup", "9:name=systemd:/x\n4:cpu,memory:/docker/1234\n2:cpu:/docker/1234\n0::/\n")
    group_1(system / "sys/fs/cgroup/memory/docker/1234", 2 * GB, GB, files=GB // 2)
    group_1(system / "sys/fs/cgroup/memory", UNLIMITED, 6 * GB)
    assert free_memory(system) == 3 * GB // 2
    assert total_memory(system) == 2 * GB


def test_version_1_whose_folder_cannot_be_seen(system: Path) -> None:
    """A container without a namespace: the path is the host's, the files lie at the root."""
    write(system / "proc/self/cgroup", "4:memory:/docker/1234\n")
    group_1(system / "sys/fs/cgroup/memory", 2 * GB, GB)
    assert free_memory(system) == GB


def test_limits_above_the_machine_change_nothing(system: Path) -> None:
    write(system / "proc/self/cgroup", "4:memory:/\n0::/\n")
    group_1(system / "sys/fs/cgroup/memory", UNLIMITED, 6 * GB)
    group_2(system / "sys/fs/cgroup", 64 * GB, GB)
    assert close(free_memory(system), 10 * GB)
    assert close(total_memory(system), 16 * GB)


def test_more_used_than_allowed_leaves_nothing(system: Path) -> None:
    write(system / "proc/self/cgroup", "0::/\n")
    group_2(system / "sys/fs/cgroup", GB, 2 * GB)
    assert free_memory(system) == 0


def test_a_limit_on_addresses(system: Path, limit: Callable[[int | None], None]) -> None:
    limit(5 * GB)
    assert close(free_memory(system), 4 * GB)
    assert total_memory(system) == 5 * GB
    limit(50 * GB)
    assert close(free_memory(system), 10 * GB)


def test_this_machine() -> None:
    free, total = free_memory(), total_memory()
    assert free is None or total is None or 0 < free <= total


def test_the_limit_that_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    resource = pytest.importorskip("resource")
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    assert hardware._address_limit() == (None if soft == resource.RLIM_INFINITY else soft)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7 * GB, resource.RLIM_INFINITY))
    assert hardware._address_limit() == 7 * GB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert hardware._address_limit() is None


# Instructions


@pytest.fixture
def asked_anew() -> Callable[[], tuple[bool, bool]]:
    """What the processor can do, without what was found before."""
    return lambda: (has_bfloat16.__wrapped__(), has_int8.__wrapped__())


def test_what_torch_says(monkeypatch: pytest.MonkeyPatch, asked_anew: Callable[[], tuple[bool, bool]]) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for answer in (True, False):
        bfloat16 = SimpleNamespace(_is_mkldnn_bf16_supported=lambda answer=answer: answer)
        monkeypatch.setattr(torch.ops, "mkldnn", bfloat16)
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda answer=answer: answer, raising=False)
        assert asked_anew() == (answer, answer)


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor: 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", (True, True)),
        ("flags : fpu avx2 avx_vnni\n", (False, True)),
        ("flags : amx_bf16\n", (True, False)),
        ("model name : bf16 avx512_vnni\nflags : fpu\n", (False, False)),
        ("Features : fp asimd bf16\n", (True, False)),
        ("", (False, False)),
    ],
)
def test_a_torch_without_those_private_functions(
    cpuinfo: str,
    expected: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
    asked_anew: Callable[[], tuple[bool, bool]],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported", raising=False)
    write(tmp_path / "proc/cpuinfo", cpuinfo)
    flags = hardware.instructions(tmp_path)
    monkeypatch.setattr(hardware, "instructions", lambda: flags)
    assert asked_anew() == expected


def test_without_the_library_that_multiplies(
    monkeypatch: pytest.MonkeyPatch, asked_anew: Callable[[], tuple[bool, bool]]
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert asked_anew() == (False, False)


# Errors and texts


def test_memory_that_is_short() -> None:
    attempts = [
        lambda: torch.empty(1 << 58, dtype=torch.uint8),
        lambda: np.empty(1 << 58, np.uint8),
        lambda: cv2.resize(np.zeros((9, 9), np.uint8), (2**31 - 1, 2**20)),
        lambda: bytearray(1 << 58),
    ]
    for attempt in attempts:
        with pytest.raises((RuntimeError, MemoryError, cv2.error)) as failed:
            attempt()
        assert is_out_of_memory(failed.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    for other in (RuntimeError("shapes don't fit"), ValueError("memory"), KeyError("x")):
        assert not is_out_of_memory(other)


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (7, 1000, 999_499, 3_250_000, 42 * GB)] == [
        "7 bytes", "1 kB", "999 kB", "3.25 MB", "42.0 GB",
    ]  # fmt: skip


@pytest.fixture
def as_many_threads() -> Iterator[None]:
    """Leaves the process as it was."""
    import faiss

    before = torch.get_num_threads(), faiss.omp_get_max_threads(), os.environ.get("OMP_NUM_THREADS")
    yield
    hardware.use_threads(before[1])
    torch.set_num_threads(before[0])
    os.environ.pop("OMP_NUM_THREADS", None)
    if before[2] is not None:
        os.environ["OMP_NUM_THREADS"] = before[2]


@pytest.mark.usefixtures("as_many_threads")
@pytest.mark.parametrize("count", [1, 3])
def test_threads_of_all_libraries(count: int) -> None:
    import faiss
    from threadpoolctl import threadpool_info

    hardware.use_threads(count)
    assert torch.get_num_threads() == count
    assert faiss.omp_get_max_threads() == count
    blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    assert set(blas) == {count}


@pytest.mark.usefixtures("as_many_threads")
def test_threads_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("fungi_seg.commands.data.inspect", lambda: seen.append(torch.get_num_threads()))
    assert main(["data", "inspect", "--threads", "1"]) == 0
    assert seen == [1]


@pytest.mark.parametrize(
    ("value", "message"),
    [("0", "threads is 0; it must be at least 1; leave it out for all cores"), ("-2", "threads is -2"), ("two", "two")],
)
def test_threads_that_cannot_be(value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", "somewhere", f"--threads={value}"]) == 2
    assert message in capsys.readouterr().err
