"""Train a small ViT without human labels, on generated scenes and unlabelled photographs.

Four losses, summed. Two contrast overlapping crops of a picture (InfoNCE: van den Oord et al., 2018): each patch has
to find the one that shows the same place in the other crop among the patches of the whole batch, and each class token
has to find the other crop's. The third asks every patch for colour and gradient statistics of its surroundings, as
hand-made features served Wei et al. (MaskFeat, CVPR 2022) for targets. The fourth asks of a patch of a generated scene
what kind of thing the generator painted there. Some patches of the first crop are masked, so that context decides.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fungi_seg.errors import FungiSegError
from fungi_seg.features import WIDTH, patch_statistics
from fungi_seg.files import replacing
from fungi_seg.images import read_image
from fungi_seg.pretraining.crops import Pairs, Picture, pairs
from fungi_seg.pretraining.scenes import KINDS, UNKNOWN, scene
from fungi_seg.pretraining.settings import PretrainConfig, Stage
from fungi_seg.progress import prefetch, track

LOG_EVERY = 50
KEPT = ("step", "seconds", "log", "sums")


class Learner(nn.Module):
    """The backbone and the heads that only training needs."""

    def __init__(self, config: PretrainConfig):
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(**config.model_args)
        self.mask = nn.Parameter(torch.zeros(config.dim))
        self.place = _head(config.dim)
        self.whole = _head(config.dim)
        self.look = nn.Linear(config.dim, WIDTH)
        self.kind = nn.Parameter(torch.randn(len(KINDS), config.dim) * 0.02)

    def tokens(self, images: Tensor, masked: Tensor) -> Tensor:
        """`[2 B, 1 + g², D]` of images `[2 B, 3, S, S]`, patches where `masked` `[2 B, g, g]` replaced by a token."""
        x = self.backbone.patch_embed((images - 0.5) / 0.5)
        x = torch.where(masked[..., None], self.mask.to(x.dtype), x)
        x = self.backbone._pos_embed(x)
        return cast(Tensor, self.backbone.norm(self.backbone.blocks(x)))

    def losses(self, tokens: Tensor, batch: Pairs) -> dict[str, Tensor]:
        """The losses of a batch from its tokens."""
        half, g = len(tokens) // 2, batch.kinds.shape[-1]
        patches = tokens[:, 1:].float().reshape(2 * half, g, g, -1)
        whole = F.normalize(self.whole(tokens[:, 0].float()), dim=-1)
        labels = torch.arange(half, device=tokens.device)
        similar = whole[:half] @ whole[half:].T / self.config.temperature
        image = (F.cross_entropy(similar, labels) + F.cross_entropy(similar.T, labels)) / 2
        known = batch.kinds >= 0
        angles = F.normalize(patches[known], dim=-1) @ F.normalize(self.kind, dim=-1).T
        kind = F.cross_entropy(angles * 12, batch.kinds[known], label_smoothing=0.05, reduction="sum")
        wanted = patch_statistics(batch.images, self.config.patch)
        mean, deviation = wanted.mean((0, 1, 2)), wanted.std((0, 1, 2)) + 1e-4
        look = F.smooth_l1_loss(self.look(patches), (wanted - mean) / deviation)
        return {
            "place": self._same_place(patches, batch, half, g),
            "image": image,
            "look": look,
            "kind": kind / max(1, len(angles)),
        }

    def _same_place(self, patches: Tensor, batch: Pairs, half: int, g: int) -> Tensor:
        inside = (batch.where.abs() < 1 - 1 / g).all(-1)
        image, row, column = inside.nonzero(as_tuple=True)
        if not len(image):
            return patches.sum() * 0
        if len(image) > 1536:
            image, row, column = (part[:: math.ceil(len(image) / 1536)] for part in (image, row, column))
        wanted = batch.where[image, row, column]
        second = patches[half:].permute(0, 3, 1, 2)
        found = F.grid_sample(second, batch.where, align_corners=False)[image, :, row, column]
        a = F.normalize(self.place(patches[image, row, column]), dim=-1)
        b = F.normalize(self.place(found), dim=-1)
        similar = a @ b.T / self.config.temperature
        near = torch.cdist(wanted, wanted) < 4 / g  # two patches: too similar to be separated
        kinds = batch.kinds[image, row, column]
        alike = near | ((kinds[:, None] == kinds) & (kinds >= 0))
        alike &= image[:, None] == image
        alike.fill_diagonal_(False)
        similar = similar.masked_fill(alike, -math.inf)
        labels = torch.arange(len(image), device=patches.device)
        return (F.cross_entropy(similar, labels) + F.cross_entropy(similar.T, labels)) / 2


def _head(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 128))


@dataclass
class Training:
    """A training run: its state and where that is kept.

    Attributes:
        learner: the backbone and its heads.
        step: steps done.
        seconds: spent on them, over all its sessions.
        log: mean losses since the line before, one entry each `LOG_EVERY` steps.
        sums: losses since the last line, summed.
    """

    config: PretrainConfig
    device: torch.device
    learner: Learner = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            self.learner = Learner(self.config).to(self.device)
        for block in self.learner.backbone.blocks:  # on CPU the fused kernel's backward pass is the slower one
            cast(Any, block).attn.fused_attn = self.device.type != "cpu"
        weights = [p for p in self.learner.parameters() if p.ndim > 1]
        others = [p for p in self.learner.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(
            groups, lr=self.config.rate, betas=(0.9, 0.98), weight_decay=self.config.decay
        )

    def save(self, path: Path) -> None:
        """Write all that going on needs, tensors only."""
        tensors = {f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": tensor for name, tensor in state.items()}
        run = {name: getattr(self, name) for name in KEPT} | {"config": asdict(self.config)}
        with replacing(path) as draft:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, {"run": json.dumps(run)})

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            FungiSegError: it is damaged, or was written with another configuration.
        """
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                run = json.loads(file.metadata()["run"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise FungiSegError(f"{path}: not a checkpoint, or a damaged one ({error}); remove it") from error
        mine, theirs = json.loads(json.dumps(asdict(self.config))), run["config"]
        differing = [name for name in mine if mine[name] != theirs.get(name)]
        if differing:
            raise FungiSegError(
                f"{path}: was begun with another {', '.join(differing)}; "
                f"go on with the same settings, or name another folder"
            )
        learner = {k.removeprefix("learner."): v for k, v in tensors.items() if k.startswith("learner.")}
        self.learner.load_state_dict(learner)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        for name in KEPT:
            setattr(self, name, run[name])


def pretrain(
    config: PretrainConfig,
    photos: Sequence[Path],
    checkpoint: Path,
    device: torch.device,
    workers: int = 2,
    save_every: int = 250,
    compiled: bool = False,
    show: bool = True,
) -> Training:
    """Train, or go on training, until all stages are done.

    Args:
        config: the recipe.
        photos: image files without labels.
        checkpoint: file to keep the state in; where it exists, training goes on from there.
        device: where to train.
        workers: processes that paint scenes.
        save_every: steps between two savings.
        compiled: whether to compile the backbone; half as fast again on CPU, but each stage begins a minute late.
        show: whether to report progress on standard error.

    Returns:
        The finished training.
    """
    training = Training(config, device)
    if checkpoint.exists():
        training.resume(checkpoint)
    if training.step >= config.steps:
        return training
    photographs = [_photograph(path) for path in photos]
    with ProcessPoolExecutor(workers) as pool:
        jobs = pool.map(_scene, [(config.seed, number) for number in range(config.scenes)], chunksize=16)
        generated = list(track(jobs, config.scenes, "paint", "scenes", show))
    forward: Callable[[Tensor, Tensor], Tensor] = training.learner.tokens
    if compiled:
        forward = torch.compile(forward, dynamic=False)
    jobs_left = range(training.step, config.steps)
    batches = prefetch(lambda step: _batch(config, step, generated, photographs), jobs_left, 1)
    start = time.monotonic() - training.seconds
    for batch in track(batches, len(jobs_left), "train", "steps", show):
        losses = _learn(training, forward, batch)
        for name, value in losses.items():
            training.sums[name] = training.sums.get(name, 0.0) + value
        training.step += 1
        training.seconds = time.monotonic() - start
        if training.step % LOG_EVERY == 0:
            means = {name: round(total / LOG_EVERY, 4) for name, total in training.sums.items()}
            training.log.append({"step": training.step, "seconds": round(training.seconds)} | means)
            training.sums = {}
        if training.step % save_every == 0 or training.step == config.steps:
            training.save(checkpoint)
    return training


def _scene(numbered: tuple[int, int]) -> Picture:
    return scene(*numbered)


def _photograph(path: Path) -> Picture:
    image = read_image(path)
    return image, np.full(image.shape[:2], UNKNOWN, np.uint8)


def _stage(config: PretrainConfig, step: int) -> Stage:
    for stage in config.stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    raise ValueError(step)


def _batch(
    config: PretrainConfig, step: int, generated: Sequence[Picture], photographs: Sequence[Picture]
) -> tuple[Pairs, Tensor]:
    """The crops of a step, and which patches of them are masked."""
    stage = _stage(config, step)
    rng = np.random.default_rng((config.seed, step, 1))
    from_photos = round(stage.batch * config.photo_share) if photographs else 0
    pictures = [photographs[i] for i in rng.integers(0, max(1, len(photographs)), from_photos)]
    pictures += [generated[i] for i in rng.integers(0, len(generated), stage.batch - from_photos)]
    batch = pairs(pictures, stage.size, config.patch, rng)
    share = rng.uniform(0, config.masked, (2 * stage.batch, 1, 1))
    share[stage.batch :] = 0
    return batch, torch.from_numpy(rng.random(batch.kinds.shape) < share)


def _rate(config: PretrainConfig, step: int) -> float:
    warm = max(1, config.steps // 20)
    if step < warm:
        return config.rate * (step + 1) / warm
    return config.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm))))


def _learn(
    training: Training, forward: Callable[[Tensor, Tensor], Tensor], batch: tuple[Pairs, Tensor]
) -> dict[str, float]:
    crops, masked = batch[0].to(training.device), batch[1].to(training.device)
    for group in training.optimiser.param_groups:
        group["lr"] = _rate(training.config, training.step)
    with torch.autocast(training.device.type, torch.bfloat16):
        tokens = forward(crops.images, masked)
    losses = training.learner.losses(tokens, crops)
    weights = {"place": 1.0, "image": 0.3, "look": training.config.looks, "kind": training.config.kinds}
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    training.optimiser.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(training.learner.parameters(), 3.0)
    training.optimiser.step()
    return {name: float(loss.detach()) for name, loss in losses.items()}
