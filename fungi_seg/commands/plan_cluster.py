"""What a cluster would take, as lines of a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from fungi_seg.bank import BankRecipe, Survey, needs_of, size_text
from fungi_seg.commands.plan_facts import minutes
from fungi_seg.datasets import Dataset
from fungi_seg.features import Backbone
from fungi_seg.hardware import processor_name
from fungi_seg.images import RunConfig
from fungi_seg.planning import Forecast, Load, NodeConfig, Stages, forecast, time_stages, workers_of
from fungi_seg.search import QUERIES


@dataclass(frozen=True)
class Cluster:
    """Machines, and how many images they are for."""

    nodes: int
    node: NodeConfig
    images: float


@dataclass(frozen=True)
class Plan:
    """A forecast and what it is made from."""

    cluster: Cluster
    load: Load
    stages: Stages
    forecast: Forecast


def forecast_for(
    dataset: Dataset,
    backbone: Backbone,
    out: str,
    recipe: BankRecipe,
    run: RunConfig,
    cluster: Cluster,
    seen: Survey,
) -> Plan:
    """Time the stages here, and take them to the cluster."""
    times = cluster.images / seen.images
    seen = replace(seen, images=round(cluster.images), names=round(seen.names * times))
    needs = needs_of(seen, backbone, recipe.features)(recipe.bank, run.load)
    load = Load.of(dataset, seen, needs, recipe, workers_of(cluster.nodes, cluster.node))
    stages = time_stages(dataset, backbone, out, recipe, run)
    return Plan(cluster, load, stages, forecast(load, stages, cluster.nodes, cluster.node))


def cluster_facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Name and value of each line of the table."""
    load, stages, found = plan.load, plan.stages, plan.forecast
    yield "images", f"{load.images:.4g}, {size_text(round(load.read))} each with its mask"
    yield "rows", f"at most {load.rows} of {load.dim} numbers, from {load.candidates:.4g} candidates"
    yield "time to build it", f"about {minutes(found.build)}"
    yield "  start", minutes(found.start)
    yield "  features", minutes(found.compute)
    yield "  reading, meanwhile", f"{minutes(found.reading)} for {size_text(round(found.read))} over the network"
    yield "  writing, meanwhile", minutes(found.writing)
    yield "  joining", f"{minutes(found.joining)}, one process"
    yield "shared storage", size_text(round(found.disk))
    yield "memory of a node to build", size_text(round(found.node))
    yield "memory of the driver", size_text(round(found.driver))
    yield "memory of a node to search", size_text(round(found.search_node))
    yield f"time to search, {QUERIES} patches", f"{found.searching:.2g} s, and {found.sending:.2g} s to send them"
    for name, line in zip(("limits", *[""] * len(found.limits)), found.limits, strict=False):
        yield name, line
    for line in found.missing:
        yield "doesn't fit", line
    told = (
        f"an image {stages.image:.3g} s, a part {stages.part:.2g} s, a start {stages.start:.2g} s; a core among busy "
        f"ones {100 * stages.busy:.0f} % as fast"
    )
    yield f"measured here ({processor_name()})", told
    yield "model against measured here", ", ".join(_error(*pair) for pair in sorted(stages.errors.items()))


def cluster_json(plan: Plan) -> str:
    """All figures, in bytes and seconds."""
    values = asdict(plan)
    values["forecast"]["build"] = plan.forecast.build
    return json.dumps(values, indent=1, ensure_ascii=False)


def _error(workers: int, error: float) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''} {100 * error:+.0f} %"
