"""Settings from plain dictionaries and YAML files, those that come with the package among them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fungi_seg.errors import FungiSegError, nearest

C = TypeVar("C")
HERE = Path(__file__).parent
SHIPPED = next((place for place in (HERE / "configs", HERE.parent / "configs") if place.is_dir()), HERE / "configs")


def from_dict(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """A configuration dataclass from what JSON or YAML gives for it.

    Raises:
        FungiSegError: a key it doesn't have (named with the nearest one), or a missing one.
    """
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise FungiSegError(f"{where} has the unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise FungiSegError(f"{where} has no {', '.join(missing)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def shipped(folder: str = ".", suffix: str = ".yaml") -> dict[str, Path]:
    """The files that come with the package, by name without suffix; `folder` is `protocols` or `mmseg` for those."""
    return {path.stem: path for path in sorted((SHIPPED / folder).glob(f"*{suffix}"))}


def find(argument: str, name: str, folder: str = ".", suffix: str = ".yaml") -> Path:
    """The file that `name` stands for: one that comes with the package, or the path of another.

    Raises:
        FungiSegError: neither a path nor the name of such a file.
    """
    path, known = Path(name).expanduser(), shipped(folder, suffix)
    if name in known:
        return known[name]
    if path.suffix or len(path.parts) > 1:
        return path
    raise FungiSegError(
        f"{argument} is {name!r}; it must be one of {', '.join(known)}, or the path of a {suffix} file"
        f"{nearest(name, known)}"
    )


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
        elif parts := [option for option in options if option.startswith(f"{name}.")]:
            raise FungiSegError(f"{where} has {value!r} for {name!r}, which holds settings: {', '.join(sorted(parts))}")
        else:
            raise FungiSegError(f"{where} has the unknown key {name!r}{nearest(name, options)}")
    return flat
