"""Frameworks that aren't installed: the error names the extra to install."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from fungi_seg import DataConfig, FungiSegError, open_dataset
from fungi_seg.cli import main


@pytest.fixture
def _without_mmseg(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mmseg", "mmengine"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith(("mmseg.", "mmengine."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "fungi_seg.integrations.mmseg", raising=False)


@pytest.mark.usefixtures("_without_mmseg")
def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(ImportError, match=r'can\'t be imported .*: pip install "fungi-seg\[mmseg\]"') as caught:
        importlib.import_module("fungi_seg.integrations.mmseg")
    assert isinstance(caught.value, FungiSegError)


@pytest.mark.usefixtures("_without_mmseg")
def test_the_layout_names_the_extra(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.py"
    config.write_text("train_dataloader = dict(dataset=dict(type='PascalVOCDataset'))\n")
    with pytest.raises(FungiSegError, match=r'pip install "fungi-seg\[mmseg\]"'):
        open_dataset(DataConfig(layout="mmseg", annotations=str(config)))
    options = ["--data.layout", "mmseg", "--data.annotations", str(config), "--out", str(tmp_path / "bank")]
    assert main(["build", *options, "--backbone.name", "embedded"]) == 1
    assert 'pip install "fungi-seg[mmseg]"' in capsys.readouterr().err
    assert not (tmp_path / "bank").exists()
