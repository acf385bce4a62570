"""The command that holds a backbone against the baselines it has to beat: compare-backbones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fungi_seg.commands.settings import Root
from fungi_seg.errors import FungiSegError, UsageError
from fungi_seg.evaluation import NAMES
from fungi_seg.features import BackboneConfig
from fungi_seg.segmentation import DecoderConfig

BEGIN, END = "<!-- begin results -->", "<!-- end results -->"


def compare_backbones(
    data: Root = Root(),
    backbone: BackboneConfig = BackboneConfig("embedded"),
    seeds: tuple[int, ...] = (0, 1, 2),
    cases: tuple[str, ...] = NAMES,
    temperature: float = DecoderConfig.temperature,
    json: str = "outputs/comparison.json",
    markdown: tuple[str, ...] = (),
) -> None:
    """Measure a backbone, plain and with FUNGI, beside its baselines: random weights and hand-made numbers.

    Every figure is made under the native protocol (exact search, K = 30, masks at their own size).

    Args:
        data: folder with camvid, nuclei and voc.
        backbone: what is measured.
        seeds: of sampling and of FUNGI's projections; the baselines take the first alone.
        cases: names of the data sets.
        temperature: of the vote.
        json: file that keeps the figures; what it holds already isn't measured again.
        markdown: files in which to replace the table between two marks.
    """
    if not data.root:
        raise UsageError("data.root is empty; name the folder with camvid, nuclei and voc: --data.root DIR")
    if json == "-":
        raise UsageError("json is '-', but figures are kept in it; name a file")
    from fungi_seg.evaluation import compare_backbone
    from fungi_seg.files import replacing

    files = [Path(name).expanduser() for name in markdown]
    for file in files:
        _around(file)
    table = compare_backbone(Path(data.root).expanduser(), backbone, Path(json).expanduser(), seeds, cases, temperature)
    print(table)
    for file in files:
        before, after = _around(file)
        with replacing(file) as draft:
            draft.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def _around(file: Path) -> Sequence[str]:
    """What stands before and after the table in a file."""
    text = file.read_text("utf-8")
    if any(text.count(mark) != 1 for mark in (BEGIN, END)):
        raise FungiSegError(f"{file}: must hold {BEGIN} and {END} once each; the table goes between them")
    before, rest = text.split(BEGIN)
    return before, rest.split(END)[1]
