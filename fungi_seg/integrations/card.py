"""What a published bank says about itself: the README of its repository, with the front matter that hubs read."""

from __future__ import annotations

from fungi_seg.bank import MemoryBank

NOT_STATED = "unknown"  # the hub's own word
TAGS = ("fungi-seg", "memory-bank", "image-segmentation", "training-free")


def card(bank: MemoryBank, address: str, licence: str | None) -> str:
    """The README, Markdown after YAML.

    Args:
        bank: what is published.
        address: where to, such as `hf://user/name`.
        licence: what the bank may be used for, as the hub calls it (`cc-by-4.0`); none where it isn't stated.
    """
    info, name = bank.info, address.rpartition("/")[2]
    rows = bank.class_rows()
    table = "\n".join(f"| {_cell(c)} | {n} |" for c, n in zip(info.classes, rows, strict=True))
    facts = {
        "images": len(info.sources),
        "rows": f"{len(bank)}, {info.dim} numbers each, stored as {bank.manifest.keys}",
        "backbone": f"`{info.backbone.name}`, weights with the fingerprint `{info.fingerprint}`",
        "features": f"`{info.features.kind}`",
        "input": f"shorter side {info.input.size} pixels" if info.input.size else "images at their own size",
        "settings of the vote": "fitted on the bank" if bank.manifest.decoder else "as published",
        "built": f"{info.created} by fungi-seg {info.made_by.get('fungi-seg', 'of unknown version')}",
        "licence": licence or "not stated; ask whoever published the bank before you use it",
    }
    lines = "\n".join(f"- {what}: {said}" for what, said in facts.items())
    front = "\n".join(
        [
            "---",
            f"license: {licence or NOT_STATED}",
            "library_name: fungi-seg",
            "pipeline_tag: image-segmentation",
            "tags:",
            *(f"- {tag}" for tag in TAGS),
            "---",
        ]
    )
    return f"""{front}

# {name}

A memory bank of fungi-seg: labelled patch features, by which new images are segmented without training.

{lines}

## Use

```sh
pip install fungi-seg
fungi-seg bank pull {address} --out {name}
fungi-seg segment photo.jpg --bank {name} --out masks
```

## Classes

| class | rows that hold it |
|---|---:|
{table}
"""


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
