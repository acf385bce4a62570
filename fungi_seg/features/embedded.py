"""The small backbone that comes with the package; its model card lies beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fungi_seg.errors import FungiSegError
from fungi_seg.files import sha256

NAME = "embedded"
FILE = Path(__file__).parent.parent / "assets" / "embedded" / "vit_embedded.safetensors"
SHA256 = "6eb3b8aa0fc5b47a133af9a642361cb256ffb96ee2f6ab7f72c702e678508778"
MODEL_ARGS: dict[str, Any] = {"img_size": 96, "patch_size": 8, "embed_dim": 192, "depth": 8, "num_heads": 3}
MEAN = STD = (0.5, 0.5, 0.5)


def weights_file() -> Path:
    """The file of the embedded backbone's weights.

    Raises:
        FungiSegError: it is missing or isn't the one this release was made with.
    """
    if not FILE.is_file():
        raise FungiSegError(f"{FILE}: the weights of the embedded backbone are missing; install the package again")
    if sha256(FILE) != SHA256:
        raise FungiSegError(
            f"{FILE}: the weights of the embedded backbone are damaged (their SHA-256 isn't this release's); "
            f"install the package again, or name another backbone"
        )
    return FILE
