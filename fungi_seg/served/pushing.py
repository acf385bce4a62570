"""Rows of a bank go to a Milvus server, all of them or none."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from fungi_seg.bank import MemoryBank
from fungi_seg.errors import FungiSegError
from fungi_seg.progress import track
from fungi_seg.search import exact_search
from fungi_seg.served.addresses import IMAGE, KEY, ROW, Address, Pushed, aliased, answered, client_of
from fungi_seg.served.milvus import search_params

BATCH_BYTES = 4 << 20  # of keys in one message; servers take 64 MB
TRIED, NEIGHBOURS = 64, 30  # rows and their neighbours in other images that tell how much must be searched
EFS = tuple(2**power for power in range(6, 15))
LINKS = {"M": 32, "efConstruction": 256}


def push_to_milvus(bank: MemoryBank, url: str, recall: float = 1.0, progress: bool = False) -> Pushed:
    """Write all rows of a bank to a Milvus server, to be searched with `index.kind milvus`.

    They are written to a new collection; when all are there, the name in `url` leads to it, and what it led to before
    is dropped. So a push that fails changes nothing for whoever searches. Rows are float32, as Milvus would round
    queries to the type of the rows; each row's number is the primary key.

    Args:
        bank: an open bank.
        url: `milvus://host:port/name`, with `user:password@` before the host if need be, or a token in `MILVUS_TOKEN`.
        recall: share of the exact neighbours that shall be found, above 0 to 1. With 1 all rows are compared (FLAT),
            else a graph is searched (HNSW), as much of it as finds that share for rows of the bank in other images.
        progress: report on standard error.

    Returns:
        What was pushed; where it was there already, nothing is written.

    Raises:
        MissingExtra: no pymilvus.
        FungiSegError: no such address, nobody answers, the server refuses, the name is that of somebody's collection,
            or the graph doesn't find so many neighbours.
    """
    if not 0 < recall <= 1:
        raise FungiSegError(f"recall is {recall}; it must be above 0 and at most 1")
    address = Address.of(url)
    client = client_of(address)
    try:
        before = aliased(client, address)
        if before and Pushed.read(address.name, before) is None:
            raise FungiSegError(f"{address}: is a collection that isn't of this package; give another name")
        pushed = Pushed(address.name, bank.manifest.seal)
        with answered(address):
            if recall < 1 or not client.has_collection(pushed.collection):
                pushed = _written(client, address, bank, recall, progress)
            _lead(client, address.name, pushed.collection, before)
        return pushed
    finally:
        client.close()


def _written(client: Any, address: Address, bank: MemoryBank, recall: float, progress: bool) -> Pushed:
    """A new collection with all rows, which nothing leads to yet."""
    draft = f"{address.name}_{bank.manifest.seal}_draft"
    if client.has_collection(draft):  # of a push that was killed
        client.drop_collection(draft)
    try:
        _create(client, draft, bank)
        _fill(client, draft, bank, progress)
        _index(client, draft, recall)
        counted = int(client.query(draft, output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"])
        if counted != len(bank):
            raise FungiSegError(f"{address}: holds {counted} rows after {len(bank)} were written; push the bank again")
        ef = 0 if recall == 1 else _effort(client, address, draft, bank, recall)
        pushed = Pushed(address.name, bank.manifest.seal, ef)
        if client.has_collection(pushed.collection):  # only whole ones have such a name
            client.drop_collection(draft)
        else:
            client.rename_collection(draft, pushed.collection)
        return pushed
    except BaseException:
        with suppress(Exception):
            client.drop_collection(draft)
        raise


def _create(client: Any, name: str, bank: MemoryBank) -> None:
    from pymilvus import DataType

    seal, rows = bank.manifest.seal, len(bank)
    told = f"rows of a fungi-seg memory bank: seal {seal}, {rows} rows × {bank.info.dim}, made {bank.info.created}"
    schema = client.create_schema(description=told)
    schema.add_field(ROW, DataType.INT64, is_primary=True, auto_id=False)
    schema.add_field(KEY, DataType.FLOAT_VECTOR, dim=bank.info.dim)
    schema.add_field(IMAGE, DataType.INT64)
    client.create_collection(name, schema=schema, consistency_level="Strong")


def _fill(client: Any, name: str, bank: MemoryBank, progress: bool) -> None:
    keys, images = bank.rows.keys, np.asarray(bank.rows.source)
    for part in bank.contents.parts:
        part.check()
    step = max(1, BATCH_BYTES // (4 * bank.info.dim))
    starts = range(0, len(bank), step)
    for start in track(starts, len(starts), "rows to Milvus", "batches", show=progress):
        stop = min(len(bank), start + step)
        some = np.asarray(keys[start:stop], np.float32)
        rows = zip(range(start, stop), some, images[start:stop].tolist(), strict=True)
        client.insert(name, [{ROW: row, KEY: key, IMAGE: image} for row, key, image in rows])
    client.flush(name)


def _index(client: Any, name: str, recall: float) -> None:
    """Make what is searched, of rows that are all there: it is waited for, so that recall is measured with it."""
    index = client.prepare_index_params()
    kind, options = ("FLAT", {}) if recall == 1 else ("HNSW", LINKS)
    index.add_index(KEY, index_type=kind, metric_type="IP", params=options)
    client.create_index(name, index)
    client.load_collection(name)


def _effort(client: Any, address: Address, name: str, bank: MemoryBank, recall: float) -> int:
    """The least of `EFS` with which HNSW finds that share of the neighbours of some rows in other images."""
    images = np.asarray(bank.rows.source)
    rows = np.sort(np.random.default_rng(0).permutation(len(bank))[:TRIED])
    queries, k, reached = np.asarray(bank.rows.keys[rows], np.float32), min(NEIGHBOURS, len(bank)), 0.0
    own = np.arange(int(images.max()) + 1) == images[rows][:, None]
    similarities, truth = exact_search(bank.rows.keys, queries, k, own, images)
    there = np.isfinite(similarities)
    for ef in (ef for ef in EFS if ef >= k):
        found = []
        for query, image in zip(queries, images[rows], strict=True):
            others, how = f"{IMAGE} != {image}", search_params(ef)
            hits = client.search(
                name, [query], others, k, anns_field=KEY, search_params=how, consistency_level="Strong"
            )
            found.append([hit[ROW] for hit in hits[0]])
        shares = [np.isin(one[held], other) for one, held, other in zip(truth, there, found, strict=True)]
        reached = float(np.concatenate(shares).mean()) if there.any() else 1.0
        if reached >= recall:
            return ef
    raise FungiSegError(
        f"{address}: HNSW finds {reached:.3f} of the neighbours at most, and recall {recall} is asked for; ask for "
        f"less, or for 1, which compares all rows"
    )


def _lead(client: Any, name: str, collection: str, before: str | None) -> None:
    """Let a name lead to a collection, and drop what it led to before."""
    if before is None:
        client.create_alias(collection, name)
    elif before != collection:
        client.alter_alias(collection, name)
        client.drop_collection(before)
