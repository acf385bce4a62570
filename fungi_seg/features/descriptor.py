"""Twenty-four hand-made numbers a patch: the baseline that every backbone has to beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "descriptor"
PATCH = 8
WINDOWS = (1, 3, 9)
WIDTH = 8 * len(WINDOWS)
# over the patches of 400 generated scenes, by fungi_seg.pretraining.scenes.scene(0, 0..399)
MEAN = (
    *(0.4057, 0.4067, 0.4189, 0.0224, 0.0501, 0.0494, 0.0503, 0.0182),
    *(0.4057, 0.4067, 0.4189, 0.0224, 0.0848, 0.0832, 0.0855, 0.0240),
    *(0.4059, 0.4070, 0.4192, 0.0222, 0.1234, 0.1217, 0.1261, 0.0284),
)
DEVIATION = (
    *(0.2167, 0.2160, 0.2305, 0.0234, 0.0546, 0.0542, 0.0557, 0.0224),
    *(0.2012, 0.2011, 0.2153, 0.0185, 0.0692, 0.0684, 0.0711, 0.0215),
    *(0.1806, 0.1806, 0.1943, 0.0151, 0.0682, 0.0681, 0.0717, 0.0183),
)


def patch_statistics(images: Tensor, patch: int = PATCH) -> Tensor:
    """Mean and deviation of red, green, blue and gradient magnitude, in windows of 1, 3 and 9 patches about each patch.

    Args:
        images: `[B, 3, H, W]` float32 RGB in 0..1, sides multiples of `patch`.
        patch: side of a patch in pixels.

    Returns:
        `[B, h, w, 24]` float32: for each window four means, then four standard deviations. Windows that reach over the
        border see the patches at the border repeated.
    """
    kernel = images.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8  # Sobel
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(grey, torch.stack((kernel, kernel.T))[:, None])
    channels = torch.cat((images, slopes.square().sum(1, keepdim=True).sqrt()), 1)
    means = F.avg_pool2d(torch.cat((channels, channels.square()), 1), patch)
    parts = []
    for window in WINDOWS:
        padded = F.pad(means, (window // 2,) * 4, mode="replicate")
        mean, square = F.avg_pool2d(padded, window, 1).chunk(2, 1)
        parts += [mean, (square - mean.square()).clamp(min=0).sqrt()]
    return torch.cat(parts, 1).permute(0, 2, 3, 1)


class Descriptor(nn.Module):
    """`patch_statistics`, standardised, in the shape of a ViT: patch tokens of width 24 and no others."""

    embed_dim, num_prefix_tokens, patch_size = WIDTH, 0, (PATCH, PATCH)
    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("deviation", torch.tensor(DEVIATION))

    def forward_features(self, images: Tensor) -> Tensor:
        """`[B, N, 24]` of images `[B, 3, H, W]`, RGB in 0..1."""
        with torch.autocast(images.device.type, enabled=False):  # differences of squares need all of float32
            return ((patch_statistics(images) - self.mean) / self.deviation).flatten(1, 2)
