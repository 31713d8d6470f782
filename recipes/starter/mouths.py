"""Draw docs/starter_people.png: generated mouths of held-out people, one per row, above the demo's sentence.

    python recipes/starter/mouths.py CLIPS [WEIGHTS]

Every pixel comes from the network, because clips of real people are not part of the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from lists import SHOWN_PEOPLE

from wav2lip_npu.data.clip import read_clip
from wav2lip_npu.data.face_reader import FaceReader
from wav2lip_npu.dubbing.blend import load_mask
from wav2lip_npu.dubbing.inference import GeneratorRunner, load_models
from wav2lip_npu.media.audio_reader import read_audio
from wav2lip_npu.mel import TRAINING_FPS, log_mel, window_start

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from demo import SENTENCE, envelope

SHEET = Path(__file__).resolve().parents[2] / "docs" / "starter_people.png"
SHOWN, SCALE = 12, 1.5
MOUTH = (slice(52, 94), slice(20, 76))


def main(clips: Path, weights: str = "starter") -> int:
    """Write the sheet."""
    models = load_models(weights, device="cpu")
    runner = GeneratorRunner(models, None, load_mask("hard", 96))
    wav = read_audio(SENTENCE)
    mel = log_mel(wav)
    count = len(wav) * TRAINING_FPS // 16_000
    at = np.linspace(0, count - 1, 2 * SHOWN + 1)[1::2].astype(int)
    begins = [window_start(number, TRAINING_FPS, models.mel_shift) for number in at]  # type: ignore[arg-type]
    mels = [mel[:, max(0, begin) : max(0, begin) + 16] for begin in begins]
    rows = []
    for name in SHOWN_PEOPLE:
        folder = next(path.parent for path in clips.rglob("audio.wav") if name in path.parts)
        clip = read_clip(name, folder)
        faces = list(FaceReader(cache=False).pick(clip, at % len(clip.frames)))
        rows.append(np.hstack([mouth[MOUTH] for mouth in runner(faces, mels)]))
    sheet = cv2.resize(np.vstack(rows), None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(SHEET), np.vstack([sheet, envelope(wav, sheet.shape[1], 60)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
