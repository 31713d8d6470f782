"""Train the network that finds what is in front of a mouth: python train.py FACES.npz OUT.safetensors

FACES.npz has `faces` uint8 [K, 64, 64, 3], face crops in BGR; `clip` int [K], their clips; `val` bool [K],
whether its speaker is held out.
The occluders are drawn, see occluders.py. A sample is a face, with an occluder or without, and the mean and
deviation of a few other frames of its clip.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import occluders
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from wav2lip_npu.models.occlusion import SIZE, OcclusionNet

Array = np.ndarray[Any, Any]
_POOL = 2000
"""Samples that may be drawn again."""
_TO_UNIT, _TO_PIXELS = np.diag([1 / 64, 1 / 64, 1]), np.diag([SIZE, SIZE, 1])


def main() -> None:
    """Train for a number of minutes, and write the moving average of the weights."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("faces", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--minutes", type=float, default=15)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--init", type=Path)
    arguments.add_argument("--occluders", type=int, default=2000)
    options = arguments.parse_args()
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    data = np.load(options.faces)
    train, held_out = (Samples(data, part, options.occluders, random) for part in (False, True))
    network = OcclusionNet().to(memory_format=torch.channels_last)
    if options.init:
        network.load_state_dict({name: value.float() for name, value in load_file(options.init).items()})
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    start, step = time.monotonic(), 0
    while (done := (time.monotonic() - start) / 60 / options.minutes) < 1:
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, step / 100) * (0.02 + 0.98 * (1 - done))
        images, masks, weights = train.drawn(options.batch, random)
        loss = loss_of(network(images), masks, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(network)
        step += 1
        if step % 200 == 0:
            print(
                f"step {step}, {60 * done * options.minutes:.0f} s, loss {loss.item():.4f}",
                report(average.module, held_out),
                flush=True,
            )
            save(average.module, options.out)
    print("end", step, report(average.module, held_out, 64))
    save(average.module, options.out)


def loss_of(logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sum of the mean cross-entropy and of the Dice loss of each image."""
    entropy = (functional.binary_cross_entropy_with_logits(logits, masks, reduction="none") * weights).mean()
    shown = logits.sigmoid() * weights
    both, either = (shown * masks).sum((1, 2, 3)), (shown + masks * weights).sum((1, 2, 3))
    return entropy + 0.2 * (1 - (2 * both + 10) / (either + 10)).mean()


@torch.inference_mode()
def report(network: torch.nn.Module, samples: Samples, batches: int = 16) -> str:
    """Return intersection over union, and the share of free pixels taken for an occluder."""
    random = np.random.default_rng(1)
    network.eval()
    both = either = wrong = free = 0.0
    for _ in range(batches):
        images, masks, weights = samples.batch(32, random)
        shown, core = network(images).sigmoid() > 0.5, weights >= 1
        truth = masks > 0.5
        both += float((shown & truth & core).sum())
        either += float(((shown | truth) & core).sum())
        is_free = core & ~truth.any(dim=(1, 2, 3))[:, None, None, None]
        wrong += float((shown & is_free).sum())
        free += float(is_free.sum())
    network.train()
    return f"IoU {both / either:.3f}, false {100 * wrong / free:.3f} %"


def save(network: torch.nn.Module, path: Path) -> None:
    """Write the weights, convolutions in float16."""
    state = network.state_dict()
    save_file({name: value.half() if value.dim() == 4 else value for name, value in state.items()}, path)


class Samples:
    """Draws random samples of the training clips, or of the held-out ones."""

    def __init__(self, data: Any, held_out: bool, count: int, random: np.random.Generator) -> None:
        chosen = data["val"] == held_out
        self._faces, clip = data["faces"][chosen], data["clip"][chosen]
        _, first = np.unique(clip, return_index=True)
        self._clips = np.split(np.arange(len(clip)), np.sort(first)[1:])
        self._occluders = [occluders.draw(random) for _ in range(count if not held_out else count // 8)]
        y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
        inside = ((np.abs(x - 0.5) / 0.5) ** 3.5 + (np.abs(y - 0.7) / 0.34) ** 3.5) < 1
        self._pool: list[tuple[Array, Array]] = []
        self._weights = torch.from_numpy(np.where(inside, 1.0, 0.1).astype(np.float32))[None, None]

    def batch(
        self, size: int, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images [B, 7, S, S], masks and weights [B, 1, S, S]."""
        pairs = [self._sample(random) for _ in range(size)]
        images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return images.permute(0, 3, 1, 2), masks[:, None], self._weights

    def drawn(
        self, size: int, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return a batch of which a third is new, because drawing costs more than training."""
        for _ in range(size if len(self._pool) < _POOL else size // 3):
            self._pool.append(self._sample(random))
        del self._pool[:-_POOL]
        pairs = [self._pool[number] for number in random.integers(len(self._pool), size=size)]
        images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return images.permute(0, 3, 1, 2), masks[:, None], self._weights

    def _sample(self, random: np.random.Generator) -> tuple[Array, Array]:
        frames = random.permutation(self._clips[random.integers(len(self._clips))])
        flip = random.random() < 0.5
        base = _warp_of(random, 0.06, 4, 0.06)
        colour = 1 + random.normal(0, 0.12, 3) * 0.5 + random.normal(0, 0.15)
        spread = random.choice([0.004, 0.012, 0.03])

        def face(index: int) -> Array:
            warp = _TO_PIXELS @ base @ _warp_of(random, spread, 100 * spread, 1.5 * spread) @ _TO_UNIT
            image = self._faces[index][:, ::-1] if flip else self._faces[index]
            warped = cv2.warpAffine(
                image, warp[:2], (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            light = colour * (1 + random.normal(0, 1.5 * spread))
            return (warped * light.astype(np.float32) / 255).astype(np.float32)

        now = face(frames[0])
        mask = np.zeros((SIZE, SIZE), np.float32)
        occluder = None
        if random.random() < 0.6:
            occluder = self._place(self._faces[frames[0]], colour, random)
            now, mask = _over(now, occluder, random)
        count = int(random.choice([0, 1, 2, 4, 8]))
        earlier = [face(index) for index in frames[1 : 1 + count]]
        if occluder is not None and random.random() < 0.15:  # it was there from the beginning
            shift = random.integers(-2, 3, 2)
            earlier = [
                _over(image, tuple(np.roll(part, shift, (0, 1)) for part in occluder), random)[0]
                for image in earlier
            ]
        if count == 0 or random.random() < 0.2:
            earlier.append(now)
        mean = np.mean(earlier, axis=0)
        deviation = np.sqrt(np.mean([np.square(image - mean).mean(axis=2) for image in earlier], axis=0))
        noise = random.normal(0, random.uniform(0, 0.02), now.shape)
        if random.random() < 0.3:
            now = cv2.GaussianBlur(now, (0, 0), random.uniform(0.3, 1))
        stacked = np.concatenate([now + noise, mean, 4 * deviation[..., None]], axis=2)
        return np.clip(stacked, 0, 1).astype(np.float32), mask

    def _place(self, face: Array, light: Array, random: np.random.Generator) -> tuple[Array, Array]:
        """Return a random occluder float32 [S, S, 3], and its opacity [S, S, 1]."""
        drawn = self._occluders[random.integers(len(self._occluders))]
        scale = np.exp(random.uniform(np.log(0.35), np.log(1.5))) * SIZE / occluders.SIZE
        turn = random.uniform(0, 2 * np.pi)
        turned = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        target = SIZE * np.array([random.uniform(0.1, 0.9), random.uniform(0.45, 1.05)])
        warp = np.column_stack([turned, target - turned @ np.full(2, occluders.SIZE / 2)])
        placed = cv2.warpAffine(drawn, warp, (SIZE, SIZE), flags=cv2.INTER_AREA).astype(np.float32)
        chance = random.random()
        if chance < 0.65:  # the person's skin, or nearly
            y, x = random.integers(24, 40), random.choice([14, 18, 32, 46, 50])
            skin = face[y : y + 6, x - 3 : x + 3].reshape(-1, 3).mean(axis=0)
            tone = skin * (1 + random.normal(0, 0.15)) * (1 + random.normal(0, 0.05, 3))
        elif chance < 0.8:  # another person's
            other = self._faces[random.integers(len(self._faces))]
            tone = other[26:34, 28:36].reshape(-1, 3).mean(axis=0)
        else:
            tone = random.uniform(5, 250) * (1 + random.normal(0, 0.25, 3))
        alpha = placed[..., 3:] / 255
        shading = placed[..., :3] / 128
        return (np.clip(tone * shading * light / 255, 0, 1.2)).astype(np.float32), alpha


def _over(face: Array, occluder: tuple[Array, ...], random: np.random.Generator) -> tuple[Array, Array]:
    """Return a face with an occluder and its shadow, and the mask [S, S]."""
    colour, alpha = occluder
    if random.random() < 0.3:  # motion blur
        length = int(random.integers(2, 6))
        kernel = np.zeros((length, length), np.float32)
        kernel[(range(length), range(length)) if random.random() < 0.5 else (length // 2, slice(None))] = (
            1 / length
        )
        alpha = cv2.filter2D(alpha, -1, kernel)[..., None]
    shadow = np.roll(
        cv2.GaussianBlur(alpha[..., 0], (0, 0), random.uniform(1, 4)), random.integers(-3, 4, 2), (0, 1)
    )
    shaded = face * (1 - random.choice([0, random.uniform(0, 0.5)]) * shadow[..., None])
    return (shaded * (1 - alpha) + colour * alpha).astype(np.float32), alpha[..., 0].astype(np.float32)


def _warp_of(random: np.random.Generator, shift: float, degrees: float, zoom: float) -> Array:
    """Return a random affine map [3, 3] of the unit square, around its centre."""
    angle = np.radians(random.normal(0, degrees / 2))
    size = np.exp(random.normal(0, zoom, 2))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(size)
    turned[0, 1] += random.normal(0, zoom / 2)
    moved = random.normal(0, shift, 2)
    centre = np.array([0.5, 0.5])
    unit = np.column_stack([turned, centre + moved - turned @ centre])
    return np.vstack([unit, [0, 0, 1]])


if __name__ == "__main__":
    main()
