"""Recipe and protocol files (YAML) to command-line options."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from fungi_seg.bank.bank import MemoryBank
from fungi_seg.errors import FungiSegError, nearest

RECIPE_SECTIONS = (
    "build",
    "plan",
    "segment",
    "explain",
    "evaluate",
    "inspect",
    "extract",
    "classify",
    "demo",
    "benchmark",
    "compare",
    "sweep",
    "pretrain_embedded",
    *("append", "replace", "remove", "relabel", "merge", "compact", "index"),  # fungi-seg bank …
    *("audit", "verify", "history", "export", "import"),
)
PROTOCOL_KEYS = ("summary", "build", "evaluate", "deviations")
HERE = Path(__file__).parent
PROTOCOL_FOLDERS = (HERE / "protocols", HERE.parent / "configs" / "protocols")


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
    """A protocol by name (`native`, `hbird-v2`, `fungi`, `dip`) or by the path of its file."""
    known = {path.stem: path for folder in PROTOCOL_FOLDERS for path in sorted(folder.glob("*.yaml"))}
    path = Path(name) if name.endswith((".yaml", ".yml")) else known.get(name)
    if path is None:
        raise FungiSegError(
            f"protocol is {name!r}; it must be one of {', '.join(known)}, or a .yaml file{nearest(name, known)}"
        )
    values = read_yaml(path, PROTOCOL_KEYS)
    try:
        lines = tuple(f"{d['switch']}: {d['why']}" for d in values.get("deviations") or [])
    except (TypeError, KeyError) as error:
        raise FungiSegError(f"protocol {str(path)!r}: deviations must be a list of {{switch: …, why: …}}") from error
    return Protocol(path.stem, values.get("build") or {}, values.get("evaluate") or {}, lines)


def read_yaml(path: Path, allowed: Collection[str]) -> dict[str, Any]:
    """A YAML mapping whose top-level keys are among `allowed`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FungiSegError(f"config {str(path)!r} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise FungiSegError(f"config {str(path)!r} must hold sections ({', '.join(allowed)})")
    for key in values:
        if key not in allowed:
            raise FungiSegError(
                f"config {str(path)!r} has the unknown section {key!r}{nearest(str(key), allowed)}; "
                f"sections: {', '.join(allowed)}"
            )
    return values


def as_options(values: Mapping[str, Any], options: Collection[str], where: str) -> list[str]:
    """Nested settings as `--dotted.key=value`, each of which must be among `options`.

    Raises:
        FungiSegError: a key that no option has, with the nearest one.
    """
    return [f"--{key}={_text(value)}" for key, value in flatten(values, options, where).items()]


def flatten(values: Mapping[str, Any], options: Collection[str], where: str, prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted keys; a mapping that is itself the value of an option stays whole."""
    if not isinstance(values, Mapping):
        raise FungiSegError(f"{where} must hold keys and values, not {values!r}")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in options:
            flat[name] = value
        elif isinstance(value, Mapping) and any(option.startswith(f"{name}.") for option in options):
            flat |= flatten(value, options, where, f"{name}.")
        else:
            raise FungiSegError(f"{where} has the unknown key {name!r}{nearest(name, options)}")
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


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
