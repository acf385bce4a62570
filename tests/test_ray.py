"""Work spread by a Ray of this machine: the same banks, results and reports, and clear words where it can't go on."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_results import contents
from test_shards import assert_same_bank, dataset, recipe_of, run_of, tree  # noqa: F401
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankError,
    DataConfig,
    DataError,
    Dataset,
    FungiSegError,
    InputConfig,
    LoadConfig,
    MemoryBank,
    RunConfig,
    Segmenter,
    build_bank,
    evaluate,
    open_dataset,
)
from fungi_seg.cli import main
from fungi_seg.cluster import Connection, check_seen, check_shared, connected, connection as connecting, nodes
from fungi_seg.distributed import Cluster, build_on, building, evaluating, segmenting, spreading, tallied_by, written_by
from fungi_seg.errors import MissingExtra, UsageError
from fungi_seg.evaluation import CocoConfig, Measurement
from fungi_seg.results import ResultsConfig, find_images, segment_to_folder
from fungi_seg.segmentation import ObjectConfig

pytestmark = pytest.mark.ray
CORES = 4  # that Ray may think it has


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As workers have it: sums may differ in the last bits otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ray() -> Iterator[Connection]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(connecting, "cores", lambda: CORES)
        with connected("local") as connection:
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't know this module
            yield connection


@dataclass(frozen=True)
class Task:
    """Work on numbers: what happens to the first attempt at some of them, or to each attempt."""

    folder: Path
    dies: tuple[int, ...] = ()
    always: bool = False
    fails: type[Exception] | None = None

    def open(self) -> Callable[[int], int]:
        def work(number: int) -> int:
            mark = self.folder / f"{number}"
            if number in self.dies and (self.always or not mark.exists()):
                mark.touch()
                if self.fails:
                    raise self.fails(f"number {number}")
                os.kill(os.getpid(), signal.SIGKILL)
            return number * number

        return work


def squares(ray: Connection, task: Task, count: int, workers: int | None = None) -> list[int]:
    done = list(spreading.spread(Cluster(ray, workers), task, range(count)))
    assert sorted(one.number for one in done) == list(range(count))
    return [one.result for one in spreading.in_order(done)]


def test_units_of_lost_workers_are_done_again(ray: Connection, tmp_path: Path) -> None:
    assert squares(ray, Task(tmp_path, (3, 7)), 12, 2) == [number**2 for number in range(12)]


def test_a_unit_that_always_ends_its_worker_is_told(ray: Connection, tmp_path: Path) -> None:
    with pytest.raises(FungiSegError, match=r"the work on the cluster failed \(.*--verbose shows where"):
        squares(ray, Task(tmp_path, (1,), always=True), 3, 1)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (DataError, "^number 1$"),
        (BankError, "^number 1$"),
        (ValueError, r"^a worker on node .* failed \(ValueError: number 1\)"),
    ],
)
def test_errors_of_workers_arrive_as_they_are(
    ray: Connection, tmp_path: Path, kind: type[Exception], says: str
) -> None:
    expected = kind if issubclass(kind, FungiSegError) else FungiSegError
    with pytest.raises(expected, match=says) as caught:
        squares(ray, Task(tmp_path, (1,), True, kind), 3)
    assert "Traceback" not in str(caught.value)


def delayed(job: Any) -> Any:
    """The same job, whose units are done in another order."""
    opened = job.open

    def open_() -> Any:
        work = opened()

        def later(unit: Any) -> Any:
            time.sleep(random.Random(str(unit)).random() / 2)
            return work(unit)

        return later

    return _Job(open_)


@dataclass(frozen=True)
class _Job:
    open: Callable[[], Any]


@pytest.mark.parametrize(("case", "workers"), [("balanced", 1), ("epochs", 2), ("support", 2), ("balanced", 4)])
def test_banks_are_those_of_one_build(
    ray: Connection,
    dataset: Dataset,  # noqa: F811
    tiny_backbone: Backbone,
    tmp_path: Path,
    case: str,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = building.spread
    monkeypatch.setattr(building, "spread", lambda cluster, job, *rest: real(cluster, delayed(job), *rest))
    recipe = recipe_of(case)
    whole = build_bank(dataset, tiny_backbone, tmp_path / "whole", recipe, run_of())
    made = build_on(Cluster(ray, workers), dataset, tiny_backbone, tmp_path / "made", recipe, run_of())
    assert_same_bank(whole, made)
    assert not made.verify()
    assert not list((tmp_path / "made").rglob(".attempt-*"))


def test_a_stopped_build_goes_on_and_full_disks_are_told(
    ray: Connection,
    dataset: Dataset,  # noqa: F811
    tiny_backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def filling(job: Any) -> Any:
        opened = job.open

        def open_() -> Any:
            work = opened()

            def full_after(number: int) -> Any:
                if number > 2:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
                return work(number)

            return full_after

        return _Job(open_)

    def jumping(job: Any) -> Any:
        opened = job.open

        def open_() -> Any:
            time.time = lambda: random.Random().random() * 4e9
            return opened()

        return _Job(open_)

    real, given = building.spread, list[list[int]]()
    recipe = recipe_of("balanced")
    with monkeypatch.context() as patched:
        patched.setattr(building, "spread", lambda cluster, job, *rest: real(cluster, filling(job), *rest))
        with pytest.raises(BankError, match=r"can't be written"):
            build_on(Cluster(ray, 1), dataset, tiny_backbone, tmp_path / "made", recipe, run_of())
    assert not (tmp_path / "made" / "bank.json").exists()

    def noting(cluster: Cluster, job: Any, units: list[int], *rest: Any) -> Any:
        given.append(units)
        return real(cluster, jumping(job), units, *rest)

    monkeypatch.setattr(building, "spread", noting)
    made = build_on(Cluster(ray, 2), dataset, tiny_backbone, tmp_path / "made", recipe, run_of())
    assert given == [[3, 4, 5, 6]]  # the first two were complete
    assert_same_bank(build_bank(dataset, tiny_backbone, tmp_path / "whole", recipe, run_of()), made)
    with pytest.raises(BankError, match="there is a bank already"):
        build_on(Cluster(ray, 2), dataset, tiny_backbone, tmp_path / "made", recipe, run_of())


@pytest.fixture(scope="module")
def bank(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    folder = tmp_path_factory.mktemp("bank")
    data = open_dataset(DataConfig(root=str(folder_tree(folder / "data", 4, 9)), split="train"))
    recipe = replace(recipe_of("balanced"), input=InputConfig(size=None))
    return build_bank(data, tiny_backbone, folder / "bank", recipe, RunConfig(LoadConfig(2, 0)))


def test_results_are_those_of_one_process(
    ray: Connection, bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    images = find_images([str(bank.path.parent / "data" / "val" / "images")], [], tmp_path / "out", InputConfig())
    run, found = RunConfig(LoadConfig(2, 0)), []
    for name, write in (("plain", None), ("ray", written_by(Cluster(ray, 2)))):
        config = ResultsConfig(objects=ObjectConfig(), coco=CocoConfig(str(tmp_path / f"{name}.json")), scores=True)
        found.append(segment_to_folder(segmenter, images, tmp_path / name, config, run, write=write))
    assert vars(found[0]) == vars(found[1])
    assert contents(tmp_path / "plain") == contents(tmp_path / "ray")
    assert (tmp_path / "plain.json").read_bytes() == (tmp_path / "ray.json").read_bytes()
    (tmp_path / "ray" / "masks" / f"{next(iter(images))}.png").unlink()
    again = segment_to_folder(segmenter, images, tmp_path / "ray", config, run, write=written_by(Cluster(ray)))
    assert again.segmented == 1


def test_bad_images_are_told_as_in_one_process(
    ray: Connection, bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    images = find_images([str(bank.path.parent / "data" / "val" / "images")], [], tmp_path / "out", InputConfig())
    images["bad"] = tmp_path / "bad.png"
    images["bad"].write_bytes(b"no image")
    said, skipped = [], []
    for number, write in enumerate((None, written_by(Cluster(ray, 1)))):
        with pytest.raises(DataError) as caught:
            segment_to_folder(segmenter, images, tmp_path / f"a{number}", write=write)
        said.append(str(caught.value))
        run = RunConfig(skip_bad=True)
        skipped.append(segment_to_folder(segmenter, images, tmp_path / f"b{number}", None, run, write=write).skipped)
    assert said[0] == said[1]
    assert skipped[0] == skipped[1] != []


def test_reports_are_those_of_one_process(ray: Connection, bank: MemoryBank, tiny_backbone: Backbone) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    val = open_dataset(DataConfig(root=str(bank.path.parent / "data"), split="val"))
    run, objects = RunConfig(LoadConfig(2, 0)), ObjectConfig()
    plain = evaluate(segmenter, val, run=run, objects=objects)
    job = Measurement.of(segmenter, val, None, run, objects)
    spread = job.report(tallied_by(Cluster(ray, 3), job), None, ())
    timeless = {"seconds": {}, "peak_memory_mb": {}}
    assert replace(plain, **timeless) == replace(spread, **timeless)
    assert plain.seconds.keys() == spread.seconds.keys()


def test_a_bank_that_was_changed_meanwhile(
    ray: Connection, bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    real = segmenting.SameSegmenter.of
    monkeypatch.setattr(segmenting.SameSegmenter, "of", lambda given: replace(real(given), seal="other"))
    images = find_images([str(bank.path.parent / "data" / "val" / "images")], [], tmp_path / "out", InputConfig())
    with pytest.raises(BankError, match="is another bank on node"):
        segment_to_folder(segmenter, images, tmp_path / "out", write=written_by(Cluster(ray)))


def test_the_connection_is_shared_within_a_process(ray: Connection, tmp_path: Path) -> None:
    with connected("local") as same:
        assert same is ray
    with pytest.raises(FungiSegError, match="is connected to the Ray local already"), connected("auto"):
        pass
    check_shared(ray, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    check_seen(ray, [tmp_path])
    with pytest.raises(FungiSegError, match=r"gone: isn't there on node .*same files under the same paths"):
        check_seen(ray, [tmp_path / "gone"])


def test_other_versions_on_a_node(ray: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    here = nodes.software()
    monkeypatch.setattr(nodes, "software", lambda: here | {"torch": "0.1", "fungi-seg": "0.0.1"})
    with pytest.raises(FungiSegError, match=r"node .*: fungi-seg is .*, here 0\.0\.1\n.*torch is .*, here 0\.1"):
        nodes.check_versions(ray.nodes)


def test_too_many_threads_for_any_machine(ray: Connection) -> None:
    with pytest.raises(FungiSegError, match=r"no machine of the cluster has 64 cores for a worker:.*\n.*4 cores"):
        Cluster(ray, None, 64).room(ray.nodes, False)
    with pytest.raises(FungiSegError, match=r"has 1 cores and a GPU .*\n.*\n.*--backbone\.device cpu"):
        Cluster(ray).room(ray.nodes, True)
    assert Cluster(ray).room(ray.nodes, False).count == CORES
    with pytest.raises(UsageError, match="--workers is 0"):
        Cluster(ray, 0)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that isn't connected."""
    import ray

    monkeypatch.setattr(connecting, "_HELD", [])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("alone")
def test_addresses_at_which_no_ray_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:1"):
            with pytest.raises(FungiSegError, match=r"no Ray answers there .*; is it up"), connected(address):
                pass
    for address in ("here", "host:", ":6379", "host:port", "ray://host"):
        with (
            pytest.raises(UsageError, match=r"--cluster is .*it must be local, auto, host:port or"),
            connected(address),
        ):
            pass


@pytest.mark.usefixtures("alone")
def test_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"fungi-seg\[ray\]"), connected("local"):
        pass


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("segment x.png --bank b --out o --workers 2", "--workers is of --cluster, which isn't given"),
        ("build --out o --shard 1/2 --cluster local", "--shard is 1/2 and --cluster local"),
        ("evaluate --predictions p --data.split val --cluster local", "--cluster doesn't go with --predictions"),
        ("evaluate --bank b --seeds 0,1 --data.split val --cluster local", "--cluster doesn't go with --seeds"),
    ],
)
def test_options_that_do_not_go_together(
    line: str, says: str, bank: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next((bank.path.parent / "data" / "val" / "images").iterdir())
    words = [
        {"b": str(bank.path), "x.png": str(photo), "o": str(tmp_path / "o")}.get(word, word) for word in line.split()
    ]
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_parts_keep_files_together_and_batches_whole() -> None:
    from fungi_seg.distributed.opening import runs

    for total, batch, workers in ((0, 4, 1), (1, 4, 3), (367, 4, 2), (10_000, 8, 16)):
        found = runs(total, batch, workers)
        assert [index for run in found for index in run] == list(range(total))
        assert all(run.start % batch == 0 for run in found)
    assert np.all([building.shards_for(n, 4) <= -(-n // 4) for n in range(1, 400)])
    assert building.shards_for(10**6, 4) == building.MOST
    assert evaluating.runs is segmenting.runs
