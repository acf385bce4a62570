"""What a training leaves behind: weights under timm's names, and their model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from fungi_seg.features import FILE, MEAN, STD
from fungi_seg.files import replacing, sha256
from fungi_seg.pretraining.scenes import LAYOUTS
from fungi_seg.pretraining.training import LOG_EVERY, Training

CARD = """# Model card: {name}

A small vision transformer, trained from scratch without human labels, {parameters:.1f} M parameters stored as float16.
Architecture: timm's `VisionTransformer({arguments})`.
Input: RGB in 0..1, normalised with mean {mean} and deviation {std}.

- **Use:** patch features for retrieval, where a first result without any download is wanted. A large pretrained
  backbone (DINO, DINOv2) is far better on photographs.
- **Data:** {scenes} scenes painted by `fungi_seg/pretraining/scenes.py` ({layouts}),
  no photograph in them; and {photos} unlabelled photographs ({about}),
  {share:.0%} of each batch.
- **Labels:** none made by people. The generator knows what it painted where, and one of the losses asks for that.
- **Recipe:** `fungi_seg/pretraining/training.py`, {steps} steps, seed {seed}, in {hours:.2f} hours on {device}
  ({threads} threads), torch {torch}; settings and losses below.
- **Checksum:** SHA-256 `{digest}`.
- **Licence:** Apache-2.0, as the package.

## Evaluation

`fungi-seg compare-backbones --data.root DIR`, protocol `native` (exact search, K = 30, masks at their own size),
at most 150 000 rows, 256×336 pixels; of several seeds the mean (lowest–highest). CamVid and VOC: mIoU; nuclei: IoU of
the class nucleus, from 71 annotated images and from 8. More in `docs/results.md`.

<!-- begin results -->
<!-- end results -->

## Settings

```json
{config}
```

Losses at the end, means of {window} steps: {losses}.
"""


def release(training: Training, photos: int, about_photos: str, device: torch.device, out: Path) -> tuple[Path, str]:
    """Write the backbone of a finished training, float16, and its model card.

    Args:
        training: finished.
        photos: how many photographs it saw.
        about_photos: their source and licence.
        device: it ran on.
        out: folder.

    Returns:
        The file of the weights and its SHA-256.
    """
    config, backbone = training.config, training.learner.backbone
    weights = out / FILE.name
    with replacing(weights) as draft:
        save_file({name: tensor.half().contiguous().cpu() for name, tensor in backbone.state_dict().items()}, draft)
    weights.chmod(0o644)  # the library makes files that only their owner may read
    digest = sha256(weights)
    last = training.log[-1] if training.log else {}
    text = CARD.format(
        name=weights.stem,
        arguments=", ".join(f"{key}={value!r}" for key, value in config.model_args.items()),
        parameters=sum(p.numel() for p in backbone.parameters()) / 1e6,
        mean=MEAN,
        std=STD,
        scenes=config.scenes,
        layouts=", ".join(f"{name} {share:.0%}" for name, (_, share) in LAYOUTS.items()),
        photos=photos,
        about=about_photos,
        share=config.photo_share if photos else 0,
        steps=config.steps,
        seed=config.seed,
        hours=training.seconds / 3600,
        device=device.type,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        digest=digest,
        config=json.dumps(asdict(config), indent=1),
        window=LOG_EVERY,
        losses=", ".join(f"{name} {value}" for name, value in last.items() if name not in ("step", "seconds")) or "–",
    )
    with replacing(out / "README.md") as draft:
        draft.write_text(text, encoding="utf-8")
    return weights, digest
