"""A bank whose rows a Milvus server searches."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from fungi_seg.bank import MemoryBank
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.search import AnyKeys, IndexConfig, exact_search, scaled, share_found, usable_queries
from fungi_seg.served.addresses import KEY, ROW, Address, Pushed, aliased, answered, client_of

ASKED = 1024  # queries at once: with their neighbours, a few megabytes


class MilvusIndex:
    """Cosine neighbours among a bank's rows, which were pushed to a Milvus server. Threads may search at the same time.

    Args:
        bank: an open bank.
        config: of kind `milvus`.
        gradient_weight: see `MemoryBank.query_scale`.

    Attributes:
        kind: `milvus`, and how rows are searched there.
        rows, dim: of the bank.

    Raises:
        MissingExtra: no pymilvus.
        FungiSegError: nobody answers at the address.
        BankError: nothing was pushed there, or another state of the bank.
    """

    def __init__(self, bank: MemoryBank, config: IndexConfig, gradient_weight: float | None = None):
        self.rows, self.dim = len(bank), bank.info.dim
        self._scale = bank.query_scale(gradient_weight)
        self._address = Address.of(config.address or "")
        self._client = client_of(self._address)
        self._end = weakref.finalize(self, self._client.close)
        found = aliased(self._client, self._address)
        push = f"push it: fungi-seg bank push {self._address} --bank {bank.path}"
        if found is None:
            raise BankError(f"{self._address}: the rows of {bank.path} aren't there; {push}")
        pushed = Pushed.read(self._address.name, found)
        if pushed is None or pushed.seal != bank.manifest.seal:
            raise BankError(f"{self._address}: holds something else than the bank {bank.path} as it is now; {push}")
        self._pushed = pushed
        self.kind = f"milvus ({f'HNSW, ef {pushed.ef}' if pushed.ef else 'FLAT'})"
        with answered(self._address):
            self._client.load_collection(pushed.collection)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.

        Returns:
            As `NeighbourIndex.search`.

        Raises:
            FungiSegError: the server doesn't answer, or not with `k` different rows of the bank for each query.
        """
        queries, lengths = scaled(usable_queries(queries, k, (self.rows, self.dim)), self._scale)
        similarities, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), ASKED):
            asked = slice(start, min(len(queries), start + ASKED))
            with answered(self._address):
                found = self._client.search(
                    self._pushed.collection,
                    list(queries[asked]),
                    anns_field=KEY,
                    limit=k,
                    search_params=search_params(max(k, self._pushed.ef) if self._pushed.ef else 0),
                    consistency_level="Strong",
                )
            similarities[asked], rows[asked] = neighbours(found, (asked.stop - start, k), self.rows, self._address)
        return similarities if lengths is None else similarities * lengths, rows

    def recall(self, keys: AnyKeys, queries: np.ndarray, k: int) -> float:
        """Share of the exact `k` nearest rows of `keys` that the server finds, over `queries`."""
        if not self._pushed.ef:
            return 1.0
        wanted = scaled(usable_queries(queries, k, (self.rows, self.dim)), self._scale)[0]
        return share_found(exact_search(keys, wanted, k)[1], self.search(queries, k)[1])

    def close(self) -> None:
        """Leave the server; done too when the index is no longer used."""
        self._end()


def search_params(ef: int) -> dict[str, object]:
    """How a collection is searched; `ef` is 0 where all rows are compared."""
    return {"metric_type": "IP", "params": {"ef": ef} if ef else {}}


def neighbours(
    found: Sequence[Sequence[dict[str, float]]], shape: tuple[int, int], rows: int, address: Address
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and rows of a server's answer, if it is one.

    Args:
        found: hits of each query.
        shape: `(Q, k)` that they must have.
        rows: of the bank.
        address: of the server.

    Raises:
        FungiSegError: not `k` different rows of the bank for each query, or a similarity that isn't finite.
    """
    if len(found) != shape[0] or {len(hits) for hits in found} - {shape[1]}:
        least = min((len(hits) for hits in found), default=0)
        raise FungiSegError(
            f"{address}: gave {least} neighbours for one of {shape[0]} queries, not {shape[1]}; push the bank again"
        )
    numbers = np.array([[hit[ROW] for hit in hits] for hits in found], np.int64).reshape(shape)
    similarities = np.array([[hit["distance"] for hit in hits] for hits in found], np.float32).reshape(shape)
    ordered = np.sort(numbers, axis=1)
    if (numbers < 0).any() or (numbers >= rows).any() or (ordered[:, 1:] == ordered[:, :-1]).any():
        raise FungiSegError(f"{address}: gave rows that the bank hasn't, or one of them twice; push the bank again")
    if not np.isfinite(similarities).all():
        raise FungiSegError(f"{address}: gave similarities that aren't finite; push the bank again")
    return similarities, numbers
