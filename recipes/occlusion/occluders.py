"""Draw random occluders: hands, fists, bars, microphones, cups and blobs."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]
SIZE = 128


def draw(random: np.random.Generator) -> Array:
    """Return a random occluder uint8 [128, 128, 4]: its shading in three channels, and its opacity."""
    shape = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    lines = np.zeros_like(shape)
    kind = random.choice(["hand", "hand", "hand", "fist", "finger", "bar", "microphone", "cup", "blob"])
    _DRAW[kind](shape, lines, random)
    shape = cv2.resize(shape, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    lines = cv2.resize(lines, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return np.dstack([_shading(shape, lines, random), shape])


def _shading(shape: Array, lines: Array, random: np.random.Generator) -> Array:
    """Return light from one side, roundness, dark lines and texture, uint8 [S, S, 3] around 128."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    angle = random.uniform(0, 2 * np.pi)
    light = random.uniform(0, 0.35) * (np.cos(angle) * x + np.sin(angle) * y)
    depth = cv2.GaussianBlur(shape.astype(np.float32) / 255, (0, 0), random.uniform(2, 8))
    light += random.uniform(0, 0.5) * (depth - 0.8)
    light -= random.uniform(0.1, 0.5) * cv2.GaussianBlur(
        lines.astype(np.float32) / 255, (0, 0), random.uniform(0.5, 2)
    )
    if random.random() < 0.3:  # a bold pattern, as on a cup
        grain = random.normal(0, 1, (int(random.integers(3, 12)),) * 2 + (3,)).astype(np.float32)
        texture = random.uniform(0, 0.5) * cv2.resize(grain, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    else:
        grain = random.normal(0, 1, (SIZE, SIZE, 1)).astype(np.float32)
        texture = random.uniform(0, 0.3) * cv2.GaussianBlur(grain, (0, 0), random.uniform(0.7, 3))[..., None]
    shading = np.clip(128 * (1 + light[..., None] + texture), 0, 255).astype(np.uint8)
    return np.broadcast_to(shading, (SIZE, SIZE, 3))


def _capsule(shape: Array, lines: Array, ends: list[Array], width: float) -> None:
    points = np.round(np.array(ends)).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(lines, [points], False, 255, round(width) + 4)
    cv2.polylines(lines, [points], False, 0, round(width))
    cv2.polylines(shape, [points], False, 255, round(width))


def _hand(shape: Array, lines: Array, random: np.random.Generator) -> None:
    centre = np.array([SIZE, SIZE]) + random.uniform(-25, 25, 2)
    palm = random.uniform(35, 55)
    turn = random.uniform(0, 2 * np.pi)
    arm = centre + 250 * np.array([np.cos(turn + np.pi), np.sin(turn + np.pi)])
    _capsule(shape, lines, [centre, arm], palm * random.uniform(1.0, 1.5))
    cv2.ellipse(
        shape,
        (*map(int, centre),),
        (int(palm), int(palm * random.uniform(0.8, 1.1))),
        np.degrees(turn),
        0,
        360,
        255,
        -1,
    )
    spread = random.uniform(0.05, 0.4)
    for number in range(int(random.integers(2, 6))):
        angle = turn + (number - 1.8) * spread + random.normal(0, 0.05)
        way = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-np.sin(turn), np.cos(turn)]) * (number - 1.8) * palm * random.uniform(0.35, 0.5)
        length = palm * random.uniform(0.6, 2.4)
        bend = length * np.array(
            [np.cos(angle + random.normal(0, 0.4)), np.sin(angle + random.normal(0, 0.4))]
        )
        start = centre + across + way * palm * 0.6
        _capsule(
            shape,
            lines,
            [start, start + way * length / 2, start + way * length / 2 + bend / 2],
            palm * random.uniform(0.38, 0.55),
        )


def _fist(shape: Array, lines: Array, random: np.random.Generator) -> None:
    centre = np.array([SIZE, SIZE]) + random.uniform(-30, 30, 2)
    turn = random.uniform(0, 2 * np.pi)
    palm = random.uniform(40, 70)
    _capsule(shape, lines, [centre, centre + 250 * np.array([np.cos(turn), np.sin(turn)])], palm * 1.2)
    for number in range(4):
        at = centre + (number - 1.5) * 0.5 * palm * np.array([-np.sin(turn), np.cos(turn)])
        _capsule(shape, lines, [at, at - 0.6 * palm * np.array([np.cos(turn), np.sin(turn)])], 0.55 * palm)


def _bar(shape: Array, lines: Array, random: np.random.Generator) -> None:
    centre, turn = random.uniform(SIZE / 2, 1.5 * SIZE, 2), random.uniform(0, np.pi)
    way = np.array([np.cos(turn), np.sin(turn)])
    start = centre - way * random.choice([400.0, random.uniform(10, 90)])
    _capsule(shape, lines, [start, centre + 400 * way], random.uniform(8, 60))


def _finger(shape: Array, lines: Array, random: np.random.Generator) -> None:
    centre, turn = random.uniform(SIZE / 2, 1.5 * SIZE, 2), random.uniform(0, 2 * np.pi)
    for number in range(int(random.integers(1, 3))):
        angle = turn + number * random.uniform(-0.3, 0.3)
        at = centre + number * random.uniform(10, 30, 2)
        _capsule(
            shape, lines, [at, at + 400 * np.array([np.cos(angle), np.sin(angle)])], random.uniform(16, 36)
        )


def _microphone(shape: Array, lines: Array, random: np.random.Generator) -> None:
    centre, turn = random.uniform(0.7 * SIZE, 1.3 * SIZE, 2), random.uniform(0, 2 * np.pi)
    radius = random.uniform(18, 55)
    _capsule(
        shape,
        lines,
        [centre, centre + 300 * np.array([np.cos(turn), np.sin(turn)])],
        radius * random.uniform(0.5, 1.3),
    )
    cv2.circle(shape, (int(centre[0]), int(centre[1])), int(radius), 255, -1)


def _cup(shape: Array, lines: Array, random: np.random.Generator) -> None:
    half, height = random.uniform(25, 70), random.uniform(60, 140)
    narrow = random.uniform(0.6, 1)
    corners = np.array(
        [[-half, -height / 2], [half, -height / 2], [narrow * half, height / 2], [-narrow * half, height / 2]]
    )
    turn = random.normal(0, 0.4)
    rotated = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + SIZE
    cv2.fillPoly(shape, [np.round(rotated).astype(np.int32)], 255)


def _blob(shape: Array, lines: Array, random: np.random.Generator) -> None:
    angles = np.sort(random.uniform(0, 2 * np.pi, 12))
    radii = random.uniform(25, 80) * random.uniform(0.5, 1.2, 12)
    points = SIZE + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    cv2.fillPoly(shape, [np.round(points).astype(np.int32)], 255)
    shape[:] = np.where(cv2.GaussianBlur(shape, (0, 0), 6) > 127, 255, 0)


_DRAW = {
    "hand": _hand,
    "fist": _fist,
    "finger": _finger,
    "bar": _bar,
    "microphone": _microphone,
    "cup": _cup,
    "blob": _blob,
}
