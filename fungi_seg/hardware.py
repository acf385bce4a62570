"""What this machine can do for this process: instructions and memory, found out in one place."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch

SYSTEM = Path("/")
CGROUP = Path("sys/fs/cgroup")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86, and of ARM
INT8_FLAGS = {"avx512_vnni", "avx_vnni"}
# what a failed allocation says in PyTorch, in C++ and in OpenCV
NO_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "Insufficient memory")


@cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    return _supported(lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(), BFLOAT16_FLAGS)


@cache
def has_int8() -> bool:
    """Whether this processor multiplies 8-bit integers faster than floats."""
    return _supported(lambda: torch.cpu._is_vnni_supported(), INT8_FLAGS)


def processor_name(system: Path = SYSTEM) -> str:
    """The processor's name, as the system gives it."""
    return _processor(("model name", "Processor", "Hardware"), system) or platform.processor() or platform.machine()


def instructions(system: Path = SYSTEM) -> set[str]:
    """Names of the instruction sets of this processor, where the system gives them."""
    return set(_processor(("flags", "Features"), system).split())


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        return os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Compute with so many threads from now on, in this whole process: PyTorch, FAISS and the BLAS libraries."""
    import faiss
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    threadpool_limits(count)


def free_memory(system: Path = SYSTEM) -> int | None:
    """Bytes that this process can still take without swapping, where the system says.

    That is the least of what the machine has left, what the container (control group) has left, and what the limit on
    the process's addresses (`ulimit -v`) leaves. Files that the system keeps in memory and can drop count as free.

    Args:
        system: folder in which `proc` and `sys` lie.
    """
    left = [_entries(system / "proc/meminfo").get("MemAvailable")]
    left += [limit - used for limit, used in _groups(system)]
    addresses, taken = _address_limit(), _addresses_taken(system)
    if addresses is not None and taken is not None:
        left.append(addresses - taken)
    known = [size for size in left if size is not None]
    return max(0, min(known)) if known else None


def total_memory(system: Path = SYSTEM) -> int | None:
    """Bytes that this process could have if nothing else ran: of the machine, the container and `ulimit -v` the least.

    Args:
        system: folder in which `proc` and `sys` lie.
    """
    known = [size for size in (_machine_memory(system), _address_limit()) if size is not None]
    known += [limit for limit, _ in _groups(system)]
    return min(known) if known else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of an allocation for which there was no room, on the processor or on a GPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error) for words in NO_MEMORY)


def size_text(size: int) -> str:
    """A number of bytes for people, such as `3.2 GB`."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _supported(ask: Callable[[], bool], flags: set[str]) -> bool:
    """What PyTorch says; where it no longer has that private function, what the processor says."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return bool(ask())
    except (AttributeError, RuntimeError):
        return bool(flags & instructions())


def _processor(names: tuple[str, ...], system: Path) -> str:
    """What the system says of the processor under the first of some names that is there; empty if none is."""
    for line in _text(system / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _machine_memory(system: Path) -> int | None:
    total = _entries(system / "proc/meminfo").get("MemTotal")
    if total is not None:
        return total
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _address_limit() -> int | None:
    """The most addresses, in bytes, that this process may take."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _addresses_taken(system: Path) -> int | None:
    pages = _text(system / "proc/self/statm").split()
    return int(pages[0]) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _groups(system: Path) -> Iterator[tuple[int, int]]:
    """Limit and use, in bytes, of each control group that this process is in and that has a limit, of both versions.

    In a container, the group's own folder is often not among those that can be seen, but lies at their root.
    """
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = system / CGROUP / ("memory" if controllers else "")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                yield limit, max(0, used - _droppable(folder))
            if folder == root:
                break


def _droppable(group: Path) -> int:
    """Bytes of files that a control group holds in memory and that the system drops where memory is short."""
    kept = _entries(group / "memory.stat", unit=1)
    prefix = "total_" if "total_active_file" in kept else ""  # version 1: with the groups below
    return sum(kept.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))


def _entries(path: Path, unit: int = 1024) -> dict[str, int]:
    """Numbers by name, a line each, in bytes; `unit` is what one stands for."""
    words = [line.replace(":", " ").split() for line in _text(path).splitlines()]
    return {line[0]: int(line[1]) * unit for line in words if len(line) > 1 and line[1].isdigit()}


def _number(path: Path) -> int | None:
    """The number in a file; none where it says `max`, or isn't there."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
