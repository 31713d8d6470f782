"""Names of all figures, with their unit, direction and meaning."""

from __future__ import annotations

from typing import NamedTuple


class About(NamedTuple):
    """Description of a figure."""

    group: str
    """Group of `--metrics`."""
    better: str
    """`higher`, `lower`, `zero`, or `truth`: as in the original recording."""
    digits: int
    text: str


FIGURES = {
    "lse_d": About("sync", "lower", 3, "LSE-D, distance of audio and lips by SyncNet v2"),
    "lse_c": About("sync", "higher", 3, "LSE-C, confidence of SyncNet v2"),
    "lse_offset": About("sync", "zero", 1, "frames of 1/25 s by which the audio is early"),
    "expert_confidence": About("expert", "higher", 3, "confidence of this package's SyncNet, not LSE-C"),
    "expert_cosine": About("expert", "higher", 3, "its cosine of audio and lips at offset 0"),
    "expert_offset": About("expert", "zero", 1, "frames of 1/25 s by which the audio is early"),
    "psnr_face": About("picture", "higher", 2, "PSNR of the face crop, dB"),
    "psnr_mouth": About("picture", "higher", 2, "PSNR of its lower half, dB"),
    "ssim_face": About("picture", "higher", 4, "SSIM of the face crop"),
    "ssim_mouth": About("picture", "higher", 4, "SSIM of its lower half"),
    "colour_error": About("picture", "lower", 2, "colour of the lips, dE"),
    "lpips": About("lpips", "lower", 4, "LPIPS (AlexNet) of the face crop"),
    "fid": About("fid", "lower", 2, "FID of all face crops"),
    "identity": About("identity", "lower", 3, "distance of dlib's face descriptors, not CSIM"),
    "lmd": About("track", "lower", 2, "distance of five landmarks, px of a 256 px face"),
    "lmd_mouth": About("track", "lower", 2, "the same for the corners of the mouth, centred"),
    "jitter": About("track", "truth", 3, "jitter of the face box, percent of its height"),
    "sharpness": About("mouth", "truth", 3, "detail of the mouth, levels"),
    "motion": About("mouth", "truth", 2, "motion of the mouth, levels"),
    "pause_motion": About("mouth", "lower", 3, "motion in pauses relative to speech"),
    "leak": About("mouth", "lower", 3, "motion with silence relative to that with speech"),
    "own": About("mouth", "higher", 3, "motion that speech adds, relative to the original"),
    "flicker": About("skin", "truth", 3, "flicker of still skin, levels"),
    "seam": About("skin", "lower", 2, "step across the border of the face box, levels"),
    "outside_psnr": About("skin", "higher", 2, "PSNR outside the face, dB"),
    "outside_changed": About("skin", "lower", 5, "share of changed pixels outside the face"),
    "listed_but_changed": About("frames", "zero", 3, "share of frames listed as filmed that are not"),
    "unlisted_but_filmed": About("frames", "zero", 3, "share of frames as filmed that are not listed"),
    "audio_start": About("timing", "zero", 3, "seconds by which the audio starts late"),
    "tail": About("timing", "zero", 3, "seconds by which the audio ends after the video"),
}
