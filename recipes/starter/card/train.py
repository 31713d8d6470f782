"""Train the bundled networks in minutes on one GPU: SyncNet, then the generator.

    python recipes/starter/card/train.py CLIPS LISTS OUT --minutes 9

CLIPS are preprocessed clips, one folder per speaker; LISTS has train.txt and val.txt with different speakers.
OUT receives syncnet.pth and generator.pth, for recipes/starter/pack.py. Sampling, augmentation and optimizer
run on the device, on CUDA as one captured graph per step.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from augmentation import Augmentation
from device_clips import read_clips
from torch import Tensor, nn
from torch.nn import functional

from wav2lip_npu import device as devices
from wav2lip_npu.data.clip_layout import WINDOW
from wav2lip_npu.models import checkpoint
from wav2lip_npu.models.inputs import generator_input, syncnet_input
from wav2lip_npu.models.networks import FACE_SIZE as S
from wav2lip_npu.models.networks import SyncNet, Wav2Lip
from wav2lip_npu.training.losses import all_pairs_loss, mouth_weights, sync_loss

PER_CLIP = 8
"""Windows per clip in a batch of SyncNet. The other windows of the clip are hard negatives."""
SYNCNET_SHARE = 0.12
"""Share of the time for SyncNet. It overfits after a million windows."""
DISCRIMINATOR_FROM = 0.6
"""Share of the generator's time after which the discriminator is used."""
MOUTH_WEIGHT = 4.0
"""Weight of the centre of the mouth in the L1 loss."""
QUIET = 1.5
"""Mel units below the loud parts of a clip. In half of the cases, quieter audio is replaced by silence."""
AUDIO_GAIN = 1.5
"""Factor applied after training to the distance between the embeddings of audio and of silence."""


class Trainer:
    """Clips, augmentation and device of a run."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = devices.resolve(arguments.device)
        self.on_cuda = self.device.type == "cuda"
        self.compile = arguments.compile
        self.train, self.held_out = (
            read_clips(arguments.clips, arguments.lists / f"{part}.txt", self.device)
            for part in ("train", "val")
        )
        self.augmentation = Augmentation(self.device)
        print(
            f"{len(self.train)} clips with {len(self.train.faces)} frames, {len(self.held_out)} held out",
            flush=True,
        )

    def syncnet(self, seconds: float, width: int, clips: int) -> SyncNet:
        """Train a SyncNet and return the moving average with the lowest held-out BCE."""
        network = SyncNet(width).to(self.device, memory_format=torch.channels_last)
        run = _Run(self, network, 1e-3, 0.998, weight_decay=0.05)
        amount = torch.tensor(0.2, device=self.device)
        best, kept = math.inf, network.state_dict()

        def step() -> None:
            drawn = self.train.draw(clips)
            each, frames = (
                drawn.repeat_interleave(PER_CLIP),
                self.train.draw_frames(drawn, PER_CLIP).flatten(),
            )
            faces = self.augmentation.faces(self.train.windows(each, frames), amount, grey=0.5).faces
            mels = self.augmentation.audio(self.train.window_mels(each, frames), amount)
            with self._autocast():
                audio, mouths = network(mels[:, None], self.augmentation.mouths(_mouths(faces)))
            identities = self.train.identities(each)
            run.update(all_pairs_loss(audio.float(), mouths.float(), identities, frames, 0.6)[0])

        for at in run.steps(step, seconds, reports=12):
            amount.fill_(0.2 + 0.65 * min(1, at / 0.35))
            if run.reports:
                bce, auc = self._judge(run.average)
                print(
                    f"SyncNet step {run.step} loss {run.loss:.3f} held-out BCE {bce:.3f} AUC {auc:.3f}",
                    flush=True,
                )
                if bce < best:
                    best, kept = bce, copy.deepcopy(run.average.state_dict())
        run.average.load_state_dict(kept)
        return run.average.eval().requires_grad_(False)

    def generator(self, seconds: float, width: int, batch: int, syncnet: SyncNet) -> Wav2Lip:
        """Train a generator with L1, image gradients, sync loss and, later, a patch discriminator."""
        network = Wav2Lip(width).to(self.device, memory_format=torch.channels_last)
        run = _Run(self, network, 6e-4, 0.9995, clip_norm=1.0)
        discriminator = _patch_discriminator().to(self.device)
        opponent = torch.optim.Adam(
            discriminator.parameters(),
            lr=2e-4,
            betas=(0.5, 0.99),
            fused=self.on_cuda,
            capturable=self.on_cuda,
        )
        sync_weight, push_weight = torch.zeros(2, device=self.device).unbind()
        focus, train = mouth_weights(S, MOUTH_WEIGHT, self.device), self.train
        usual = float(focus[S // 2 :].square().sum() * batch * WINDOW * 3) ** 0.5 / (
            batch * WINDOW * 3 * S * S
        )

        def forward(clips: Tensor, frames: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            windows = train.windows(clips, frames), train.windows(clips, others)
            targets, references, changed = self.augmentation.faces(windows[0], 0.6, windows[1])
            mels = train.frame_mels(clips, frames)
            mels = self.augmentation.silence(mels, train.are_quiet(clips, mels, QUIET), changed)
            with self._autocast():
                faces = network(mels.flatten(0, 1)[:, None], _inputs(targets, references))
            faces = faces.float().view(targets.shape)
            off = faces - targets
            across, down = off.diff(dim=-1).abs() * focus[:, 1:], off.diff(dim=-2).abs() * focus[1:]
            motion = off.diff(dim=1).abs() * focus
            loss = (off.abs() * focus).mean() + 0.5 * motion[..., S // 2 :, :].mean()
            loss = loss + 0.5 * (across[..., 40:, :].mean() + down[..., 40:, :].mean())
            with self._autocast():
                audio, mouths = syncnet(train.window_mels(clips, frames)[:, None], _mouths(faces))
            loss = loss + sync_weight * sync_loss(audio.float(), mouths.float(), 0.3, 1 - 0.5 * changed)
            return loss, faces, targets

        compiled = torch.compile(forward) if self.compile else forward

        def draw() -> tuple[Tensor, Tensor, Tensor]:
            clips = train.draw(batch)
            frames, several = train.draw_frames(clips, 1)[:, 0], train.draw_frames(clips, 4)
            farthest = (several - frames[:, None]).abs().argmax(1, keepdim=True)
            return clips, frames, several.gather(1, farthest)[:, 0]

        def plain() -> None:
            run.update(compiled(*draw())[0])

        def against_discriminator() -> None:
            loss, faces, targets = compiled(*draw())
            generated, real = (x[..., S // 2 :, :].flatten(0, 1) for x in (faces, targets))
            with self._autocast():
                scores = discriminator(real).float(), discriminator(generated.detach()).float()
            opponent.zero_grad(set_to_none=True)
            (functional.relu(1 - scores[0]).mean() + functional.relu(1 + scores[1]).mean()).backward()
            opponent.step()
            judged = generated.detach().requires_grad_(True)
            with self._autocast():
                score = discriminator(judged).float().mean()
            (push,) = torch.autograd.grad(-score, judged)
            push = push * (usual / (push.norm() + 1e-12))  # scaled to the gradient of the weighted L1
            run.update(loss + push_weight * (push * generated).sum())

        def report() -> None:
            own, other, copied = self._compare(run.average)
            errors = f"held-out L1 {own:.4f}, with another's audio {other:.4f}, of the reference {copied:.4f}"
            print(f"generator step {run.step} loss {run.loss:.4f} {errors}", flush=True)

        split = DISCRIMINATOR_FROM * seconds
        for at in run.steps(plain, split, until=seconds):
            sync_weight.fill_(0.0 if at < 0.08 else 0.03 + 0.03 * at)
            if run.reports:
                report()
        for at in run.steps(against_discriminator, seconds - split, begin=split, until=seconds):
            sync_weight.fill_(0.03 + 0.03 * at)
            push_weight.fill_(0.3 * min(1.0, (at - DISCRIMINATOR_FROM) / 0.08))
            if run.reports:
                report()
        return run.average.eval()

    @torch.no_grad()
    def _judge(self, syncnet: SyncNet, windows: int = 16) -> tuple[float, float]:
        """Return BCE and AUC over all pairs of windows of a held-out clip."""
        syncnet.eval()
        pool, inside, outside = self.held_out, [], []
        steps = torch.linspace(0, 0.999, windows, device=self.device)
        for clips in torch.arange(len(pool), device=self.device).split(25):
            frames = (pool.first[clips][:, None] + steps * (pool.last - pool.first)[clips][:, None]).long()
            each, flat = clips.repeat_interleave(windows), frames.flatten()
            with self._autocast():
                faces = pool.windows(each, flat).permute(0, 1, 4, 2, 3).float() / 255
                audio, mouths = syncnet(pool.window_mels(each, flat)[:, None], _mouths(faces))
            audio, mouths = (x.float().view(len(clips), windows, -1) for x in (audio, mouths))
            cosines = (audio @ mouths.transpose(1, 2)).clamp(1e-6, 1 - 1e-6)
            inside.append(cosines.diagonal(dim1=1, dim2=2).flatten())
            outside.append(cosines[frames[:, :, None] != frames[:, None]])
        real, wrong = torch.cat(inside), torch.cat(outside)
        ranks = torch.cat([real, wrong]).argsort().argsort()[: len(real)].float()
        bce = -(real.log().mean() + (1 - wrong).log().mean()) / 2
        return float(bce), float((ranks.mean() - (len(real) - 1) / 2) / len(wrong))

    @torch.no_grad()
    def _compare(self, generator: Wav2Lip) -> tuple[float, float, float]:
        """Return the held-out L1 of the lower half: own audio, another clip's audio, the reference itself."""
        generator.eval()
        pool, clips = self.held_out, torch.arange(min(128, len(self.held_out)), device=self.device)
        frames = pool.first[clips] + ((pool.last - pool.first)[clips] * 0.7).long()
        targets, references = (
            pool.windows(clips, at).permute(0, 1, 4, 2, 3).float() / 255 for at in (frames, pool.first[clips])
        )
        mels = pool.frame_mels(clips, frames)
        errors = [(references - targets)[..., S // 2 :, :].abs().mean()]
        for heard in (mels, mels.roll(1, 0)):
            with self._autocast():
                faces = generator(heard.flatten(0, 1)[:, None], _inputs(targets, references)).float()
            errors.append((faces.view(targets.shape) - targets)[..., S // 2 :, :].abs().mean())
        return float(errors[1]), float(errors[2]), float(errors[0])

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_cuda, cache_enabled=False)


class _Run:
    """A network in training: its optimizer, its moving average, and steps for a given time."""

    def __init__(
        self, trainer: Trainer, network: nn.Module, rate: float, decay: float, *, weight_decay: float = 0,
        clip_norm: float | None = None,
    ) -> None:  # fmt: skip
        self.average = copy.deepcopy(network)
        self.step, self.reports, self.loss_tensor = 0, False, torch.zeros(())
        self._network, self._decay, self._clip_norm = network, decay, clip_norm
        self._device, self._on_cuda, self._peak = trainer.device, trainer.on_cuda, rate
        self._rate = torch.tensor(0.0, device=trainer.device) if self._on_cuda else 0.0
        self._optimizer = torch.optim.AdamW(
            network.parameters(),
            self._rate,
            weight_decay=weight_decay,
            fused=self._on_cuda,
            capturable=self._on_cuda,
        )

    @property
    def loss(self) -> float:
        """The loss of the last step."""
        return float(self.loss_tensor)

    def update(self, loss: Tensor) -> None:
        """Take an optimizer step on a loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._clip_norm)
        self._optimizer.step()
        self.loss_tensor = loss.detach()

    def steps(
        self,
        step: Callable[[], None],
        seconds: float,
        *,
        begin: float = 0,
        until: float | None = None,
        reports: int = 6,
    ) -> Iterable[float]:
        """Take steps for some seconds; before each, yield the elapsed share of the time `until`."""
        until = seconds if until is None else until
        self._network.train()
        take = devices.captured(step, self._device) if self._on_cuda else step
        started, next_report = time.monotonic(), 0.0
        while (passed := time.monotonic() - started) < seconds:
            at = (begin + passed) / until
            warm = min(1, (self.step + 1) / 200)
            rate = self._peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * at)))
            if isinstance(self._rate, Tensor):
                self._rate.fill_(rate)
            else:
                self._optimizer.param_groups[0]["lr"] = rate
            self.reports = self.step > 0 and passed / seconds >= next_report
            next_report += self.reports / reports
            yield at
            take()
            self.step += 1
            if self.step % 4 == 0:
                self._average()
                if self._on_cuda and self.step % 40 == 0:
                    torch.cuda.synchronize()  # queued steps must not exceed the time
        self.reports = True
        yield 1.0 if until == begin + seconds else (begin + seconds) / until

    @torch.no_grad()
    def _average(self) -> None:
        weight = 1 - min(self._decay, (1 + self.step) / (10 + self.step)) ** 4
        for name in ("parameters", "buffers"):
            pairs = [
                (a, b)
                for a, b in zip(getattr(self.average, name)(), getattr(self._network, name)(), strict=True)
                if a.is_floating_point()
            ]
            torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], weight)


def _mouths(faces: Tensor) -> Tensor:
    """Return SyncNet's input [B, 3T, S/2, S] of faces [B, T, 3, S, S]."""
    return syncnet_input(faces.transpose(1, 2))


def _inputs(targets: Tensor, references: Tensor) -> Tensor:
    """Return the generator's input [B * T, 6, S, S] of faces [B, T, 3, S, S]."""
    stacked = generator_input(targets.flatten(0, 1), references.flatten(0, 1))
    return stacked.contiguous(memory_format=torch.channels_last)


def _patch_discriminator(channels: int = 48) -> nn.Sequential:
    """Return a patch discriminator for lower halves [N, 3, S/2, S], with spectral norm."""
    sizes = (
        (3, channels, 4, 2),
        (channels, 2 * channels, 4, 2),
        (2 * channels, 4 * channels, 3, 1),
        (4 * channels, 1, 3, 1),
    )
    layers: list[nn.Module] = []
    for before, after, kernel, stride in sizes:
        layers += [
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(before, after, kernel, stride, 1)),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers[:-1])


@torch.no_grad()
def amplify_audio(generator: Wav2Lip, gain: float) -> None:
    """Scale the distance of audio embeddings from that of silence, in the last batch norm.

    For the embedding q of silence, relu(gain * z - (gain - 1) * q) is q + gain * (relu(z) - q), at least 0.
    """
    generator.eval()
    device = next(generator.parameters()).device
    silence = generator.audio_encoder(torch.full((1, 1, 80, 16), -4.0, device=device)).flatten()
    norm = generator.audio_encoder[-1].conv_block[1]
    norm.weight.mul_(gain)
    norm.bias.mul_(gain).sub_((gain - 1) * silence)


def main() -> int:
    """Train both networks and write their checkpoints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("lists", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128, help="windows per step of the generator")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="compile the generator: pays off from about 5 minutes"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    trainer, seconds = Trainer(arguments), arguments.minutes * 60
    syncnet = trainer.syncnet(SYNCNET_SHARE * seconds, arguments.width, max(2, arguments.batch // 2))
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(
        arguments.out / "syncnet.pth", syncnet, {"global_step": 0, checkpoint.MORE: {"mel_shift": 0}}
    )
    generator = trainer.generator((1 - SYNCNET_SHARE) * seconds, arguments.width, arguments.batch, syncnet)
    amplify_audio(generator, AUDIO_GAIN)
    checkpoint.save(
        arguments.out / "generator.pth", generator, {"global_step": 0, checkpoint.MORE: {"mel_shift": -1}}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
