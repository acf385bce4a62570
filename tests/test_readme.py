"""Examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from trees import class_tree, scene

from fungi_seg import MemoryBank

DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = DOCS / "whole_images.md"


@pytest.mark.parametrize("name", ["FungiTransformer", "Agreement"])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", EXAMPLES.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if name in block]
    files = sorted((class_tree(tmp_path, train=3) / "train").rglob("*.png"))
    (tmp_path / "photo.jpg").write_bytes(files[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"images": files, "labels": [file.parent.name for file in files]}
    exec(example, scope)
    if name == "Agreement":
        assert scope["rows"].shape == (1, 3 * 192)
        assert scope["features"].parts == ("embedding", "kl", "agreement")
    else:
        assert scope["classifier"].predict([tmp_path / "photo.jpg"]).tolist() == ["circle"]


def test_a_workspace_without_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "serve.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene(0)[0]).save(tmp_path / "photos" / "a.png")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert MemoryBank.open("memory_banks/own").info.classes == ("background", "nucleus")
