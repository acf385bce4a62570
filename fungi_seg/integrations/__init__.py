"""The package inside other frameworks, each installed by an extra of its name."""

from __future__ import annotations

from fungi_seg.errors import FungiSegError


class MissingExtra(FungiSegError, ImportError):
    """Packages of an extra that aren't installed."""

    def __init__(self, extra: str, error: ImportError):
        super().__init__(
            f"{error.name or 'a package'} can't be imported ({error}); it comes with an extra of this package: "
            f'pip install "fungi-seg[{extra}]"'
        )
