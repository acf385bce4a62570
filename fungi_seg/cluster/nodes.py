"""The machines of a cluster: small tasks that ask each of them something."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fungi_seg.errors import FungiSegError, listing, reason
from fungi_seg.provenance import software

HEAD = "node:__internal_head__"  # what Ray gives the head's machine as a resource
ASK_SECONDS = 60.0  # a node's first task starts a process there


class Node(NamedTuple):
    """A machine of a cluster.

    Attributes:
        id: Ray's, hexadecimal.
        host: its name.
        cpus: cores that Ray may use.
        gpus: likewise.
        head: whether it is the one that the others depend on.
    """

    id: str
    host: str
    cpus: int
    gpus: int
    head: bool = False


def living_nodes() -> list[Node]:
    """The machines that take part now, by id."""
    import ray

    found = []
    for node in ray.nodes():
        there = node["Resources"]
        sizes = (int(there.get("CPU", 0)), int(there.get("GPU", 0)))
        if node["Alive"]:
            found.append(Node(node["NodeID"], node["NodeManagerHostname"], *sizes, HEAD in there))
    return sorted(found)


def ask_each(nodes: Sequence[Node], question: Callable[..., Any], *arguments: object) -> Iterator[tuple[Node, Any]]:
    """Call a function on each node; yields answers in the order of the nodes.

    Args:
        nodes: to ask.
        question: must be of no module of this package (defined in another function), so that it is sent whole: what is
            installed on a node may be another version of it, or none.
        arguments: for it.

    Raises:
        FungiSegError: a node doesn't answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(question).options(num_cpus=0, scheduling_strategy=there, max_retries=1)
        asked.append(task.remote(*arguments))
    for node, answer in zip(nodes, asked, strict=True):
        try:
            yield node, ray.get(answer, timeout=ASK_SECONDS)
        except ray.exceptions.RayError as error:
            raise FungiSegError(
                f"node {node.host} ({node.id[:8]}) doesn't answer ({reason(error)}); see ray status"
            ) from error


def check_versions(nodes: Sequence[Node]) -> None:
    """Raise unless each node has this machine's versions of all that results depend on."""
    here = software()
    different = []
    for node, there in ask_each(nodes, _asker()):
        for name, version in here.items():
            if there.get(name) != version:
                found = there.get(name) or there.get("error") or "not there"
                different.append(f"node {node.host} ({node.id[:8]}): {name} is {found}, here {version}")
    if different:
        raise FungiSegError(
            f"the nodes must have the versions of this machine, or their results would differ:\n{listing(different)}\n"
            f"Install the same here and there"
        )


def _asker() -> Callable[[], dict[str, str]]:
    def versions() -> dict[str, str]:
        try:
            from fungi_seg.provenance import software
        except ImportError as error:
            return {"error": f"not there ({error})"}
        return software()

    return versions
