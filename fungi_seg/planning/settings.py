"""What the machines of a cluster are like."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fungi_seg.errors import FungiSegError


@dataclass(frozen=True)
class NodeConfig:
    """One machine of a cluster in which all are alike, and the storage that they share.

    Args:
        cores: of its processor, as fast as those here; as many as here where not given.
        memory: gigabytes; as many as here where not given.
        network: gigabits a second between it and all others.
        storage: gigabytes a second that the shared storage reads or writes for all nodes together.
        images_per_second: that a node takes through the backbone, where it isn't like this machine, as with a GPU;
            by default as measured here.
    """

    cores: int | None = None
    memory: float | None = None
    network: float = 10.0
    storage: float = 2.0
    images_per_second: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise FungiSegError(f"node.{field.name} is {value}; it must be above 0")
