"""What the benchmarks ran on: the processor, and the kernels that multiply on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import torch
from threadpoolctl import threadpool_info

from fungi_seg.hardware import instructions, processor_name

SPECIAL = ("avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
# of OpenBLAS, for processors without AVX2: it takes them for one that is newer than itself
FALLBACKS = {"Prescott", "Generic", "Core2", "Penryn", "Dunnington", "Nehalem", "Atom", "Sandybridge", "Katmai",
             "Coppermine", "Northwood", "Banias", "Athlon", "Opteron", "Opteron_SSE3", "Barcelona", "Bobcat",
             "Bulldozer", "Piledriver", "Steamroller", "unknown"}  # fmt: skip


def processor() -> str:
    """The processor's name, with the instructions that matter for products in few bits."""
    special = [flag for flag in SPECIAL if flag in instructions()]
    return f"{processor_name()} ({', '.join(special) or 'no instructions for bfloat16 or 8 bits'})"


def core_type(flags: set[str]) -> str | None:
    """What OPENBLAS_CORETYPE suits a processor with these instructions; none where OpenBLAS needs no telling."""
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def is_fallback(kernels: str, flags: set[str]) -> bool:
    """Whether OpenBLAS's kernels are those of processors much older than one with these instructions."""
    return core_type(flags) is not None and kernels in FALLBACKS


def faiss_kernels() -> str | None:
    """Whose kernels the OpenBLAS inside FAISS uses in this process; none where it has no OpenBLAS of its own."""
    assert faiss  # it brings its BLAS along when it is imported
    blas = [lib for lib in threadpool_info() if lib["user_api"] == "blas" and "faiss" in lib["filepath"]]
    return blas[0].get("architecture") or "unknown" if blas else None


def machine(device: str) -> dict[str, Any]:
    """What to quote beside figures."""
    blas = {
        Path(lib["filepath"]).parent.name.removesuffix(".libs"): f"{lib['internal_api']} {lib['version']}, "
        f"{lib.get('architecture') or 'unknown'} kernels"
        for lib in threadpool_info()
        if lib["user_api"] == "blas"
    }
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu",
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "faiss": faiss.__version__,
        "blas": blas,
    }
