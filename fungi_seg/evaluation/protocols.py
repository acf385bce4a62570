"""Published evaluation protocols: the settings they fix, and how a bank and a run differ from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fungi_seg.config import find, flatten, read_yaml
from fungi_seg.errors import FungiSegError

if TYPE_CHECKING:  # protocols are read with the command line, before anything heavy is loaded
    from fungi_seg.bank import MemoryBank

PROTOCOL_KEYS = ("summary", "build", "evaluate", "deviations")


@dataclass(frozen=True)
class Protocol:
    """A published way to evaluate.

    Attributes:
        name: of the protocol.
        build, evaluate: the settings it fixes for the two commands, nested as in a recipe.
        deviations: switches in which it departs from `native`, each with the reason.
    """

    name: str
    build: dict[str, Any]
    evaluate: dict[str, Any]
    deviations: tuple[str, ...]


def read_protocol(name: str) -> Protocol:
    """A protocol by name (`native`, `best`, `hbird-v2`, `fungi`, `dip`) or by the path of its file."""
    path = find("protocol", name, "protocols")
    values = read_yaml(path, PROTOCOL_KEYS)
    try:
        lines = tuple(f"{d['switch']}: {d['why']}" for d in values.get("deviations") or [])
    except (TypeError, KeyError) as error:
        raise FungiSegError(f"protocol {str(path)!r}: deviations must be a list of {{switch: …, why: …}}") from error
    return Protocol(path.stem, values.get("build") or {}, values.get("evaluate") or {}, lines)


def protocol_notes(name: str, bank: MemoryBank, used: dict[str, Any]) -> list[str]:
    """What a report must say of a protocol: its own deviations, and where the bank or the options differ from it."""
    protocol = read_protocol(name)
    info = bank.info
    kept = {
        "input": asdict(info.input),
        "bank": info.build,
        "features": asdict(info.features),
        "backbone": {"mean": info.build.get("mean"), "std": info.build.get("std")},
    }
    notes = [f"protocol {protocol.name}: {line}" for line in protocol.deviations]
    for what, wanted, actual in (("the bank", protocol.build, kept), ("this run", protocol.evaluate, used)):
        names = [f"{section}.{key}" for section, values in actual.items() for key in values]
        given = flatten(actual, names, what)
        fixed = {section: values for section, values in wanted.items() if section in actual}
        for key, value in flatten(fixed, names, f"protocol {name}").items():
            if _plain(given[key]) != _plain(value):
                notes.append(
                    f"not as protocol {protocol.name} has it: {what} has {key} = {_plain(given[key])}, "
                    f"the protocol {_plain(value)}"
                )
    return notes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
