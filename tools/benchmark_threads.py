"""Images a second of threads that share a segmenter: `python tools/benchmark_threads.py FOLDER --bank B`.

The threads of PyTorch itself (--threads) come on top: set 1 to see what threads of one's own do. Rounds with
different numbers of threads take turns; the median counts. Run it alone on the machine: where others take its cores,
only the processor seconds tell something.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from machine import processor
from rich.console import Console
from rich.table import Table

from fungi_seg import Segmenter
from fungi_seg.cli import tool
from fungi_seg.images.reading import read_image
from fungi_seg.results import find_images


def benchmark_threads(
    bank: str,
    images: list[str],
    sharing: tuple[int, ...] = (1, 2, 4),
    count: int = 48,
    rounds: int = 5,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Measure `Segmenter.predict` in threads.

    Args:
        bank: folder of the bank.
        images: image files, folders (searched through) and quoted glob patterns; they are read before.
        sharing: numbers of threads that share the segmenter.
        count: images of a round, in turn.
        rounds: of each number of threads.
        device: auto, cpu, cuda, cuda:1, …
        dtype: auto, bfloat16 or float32.
    """
    segmenter = Segmenter(bank, device=device, dtype=dtype)
    pictures = [read_image(path) for path in find_images(images).values()]
    todo = [pictures[i % len(pictures)] for i in range(count)]
    segmenter.predict(pictures[0])
    rates: dict[int, list[float]] = {number: [] for number in sharing}
    costs: dict[int, list[float]] = {number: [] for number in sharing}
    for _ in range(rounds):
        for number in sharing:
            with ThreadPoolExecutor(number) as pool:
                started, spent = time.perf_counter(), time.process_time()
                list(pool.map(segmenter.predict, todo))
                rates[number].append(count / (time.perf_counter() - started))
                costs[number].append((time.process_time() - spent) / count)
    table = Table("threads", "images/s", "× the first", "processor seconds an image")
    first = statistics.median(rates[sharing[0]])
    for number, found in rates.items():
        median = statistics.median(found)
        cost = statistics.median(costs[number])
        table.add_row(str(number), f"{median:.2f}", f"{median / first:.2f}", f"{cost:.3f}")
    console = Console()
    console.print(table)
    console.print(f"{processor()}; {torch.get_num_threads()} threads of PyTorch each", markup=False)


if __name__ == "__main__":
    sys.exit(tool(benchmark_threads))
