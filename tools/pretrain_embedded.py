"""Train the embedded backbone: `python tools/pretrain_embedded.py configs/pretrain_embedded.yaml --out DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fungi_seg.cli import tool
from fungi_seg.pretraining import PretrainConfig, pretrain, release
from fungi_seg.results import find_images


def pretrain_embedded(
    out: str,
    photos: str | None = None,
    about_photos: str = "none",
    recipe: PretrainConfig = PretrainConfig(),
    device: str = "auto",
    workers: int = 2,
    save_every: int = 100,
    compile: bool = False,
) -> None:
    """Train a small ViT without human labels; the same command goes on where it was interrupted.

    Writes OUT/checkpoint.safetensors on the way, and at the end OUT/vit_embedded.safetensors (float16, timm's names)
    and its model card OUT/README.md.

    Args:
        out: folder of the results.
        photos: folder of unlabelled images beside the generated scenes.
        about_photos: their source and licence, for the model card.
        recipe: what is trained, on what, and for how long.
        device: auto, cpu, cuda, cuda:1, …
        workers: processes that paint scenes.
        save_every: steps between two checkpoints.
        compile: compile the backbone; faster, but every stage begins a minute late, and a C++ compiler is needed.
    """
    folder = Path(out).expanduser()
    found = sorted(find_images([photos]).values()) if photos else []
    chosen = torch.device(device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    training = pretrain(recipe, found, folder / "checkpoint.safetensors", chosen, workers, save_every, compile, True)
    weights, digest = release(training, len(found), about_photos, chosen, folder)
    print(f"{weights}: {weights.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    sys.exit(tool(pretrain_embedded))
