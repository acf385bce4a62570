"""Build a bank from eight annotated microscopy images, evaluate it on four others, and segment those."""

import sys

from fungi_seg.cli import main


def demo() -> int:
    """Run the three commands of `configs/demo.yaml`; returns the first exit code that isn't 0."""
    recipe = ["--config", "configs/demo.yaml"]
    for command in (["build"], ["evaluate"], ["segment", "fungi_seg/assets/nuclei/val/images"]):
        print(f"\n$ fungi-seg {' '.join([*command, *recipe])}", flush=True)
        code = main([*command, *recipe])
        if code:
            return code
    print("\nLook at outputs/demo/segmented/overlays and outputs/demo/report.md")
    return 0


if __name__ == "__main__":
    sys.exit(demo())
