"""The HTML page of an evaluation: one file without scripts, links or other files."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Iterator, Sequence

from wav2lip_npu.evaluation.figures import FIGURES
from wav2lip_npu.evaluation.report import EvaluationReport, VideoEvaluation, shown
from wav2lip_npu.mel import TRAINING_FPS
from wav2lip_npu.storage.outputs import OutputPath, check_outputs, write_output

_WIDTH, _HEIGHT = 1152, 72
"""Pixels of a curve."""
_LOUDNESS = "loudness"
_MAX_VIDEOS = 100
"""Videos with curves and pictures on the page; the others are in the table."""
_COLOURS = ("#1b6ca8", "#999999", "#b8541b", "#4b8b3b")
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; color: #222 }
table { border-collapse: collapse }
th, td { padding: .15em .8em; text-align: left; border-bottom: 1px solid #ddd }
td.n { text-align: right; font-variant-numeric: tabular-nums } section { margin-top: 2.5em }
svg { display: block; background: #f6f6f4; margin: .3em 0 } .strip { position: relative; height: 96px }
.strip img { position: absolute; width: 92px; border-radius: 4px }
h2 { font-size: 1.1em; word-break: break-all } p.note { color: #666 }
"""


def write_page(report: EvaluationReport, path: str | os.PathLike[str]) -> None:
    """Write the page; `path` is replaced atomically. Raises `OutputError`."""
    check_outputs([OutputPath("--page", path)])
    write_output(path, "\n".join(_page(report)) + "\n")


def _page(report: EvaluationReport) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title>'
    yield f"<style>{_STYLE}</style><h1>Evaluation of {len(report.videos)} videos</h1>"
    yield "<p>" + _lines(report.judges.items()) + "</p>"
    yield from _figures_table(report)
    notes = [*report.skipped.items(), *report.failed.items(), *((name, "missing") for name in report.missing)]
    if notes:
        yield "<p class=note>" + _lines(notes) + "</p>"
    yield from _videos_table(report.videos)
    for number, video in enumerate(report.videos[:_MAX_VIDEOS]):
        yield from _section(number, video)


def _lines(pairs: Iterable[tuple[str, str]]) -> str:
    return "<br>".join(f"{_text(name)}: {_text(value)}" for name, value in pairs)


def _figures_table(report: EvaluationReport) -> Iterator[str]:
    yield "<table><tr><th>figure<th>generated<th>original<th>better<th>meaning"
    for name, about in FIGURES.items():
        figure = report.figures.get(name)
        if figure is not None:
            values = (shown(value, about.digits) for value in (figure.generated, figure.truth))
            cells = "".join(f"<td class=n>{value}" for value in values)
            yield f"<tr><td>{name}{cells}<td>{about.better}<td>{_text(about.text)}"
    yield "</table>"


def _videos_table(videos: Sequence[VideoEvaluation]) -> Iterator[str]:
    names = [name for name in FIGURES if any(name in video.figures for video in videos)]
    yield "<section><h2>Videos, worst first</h2><div style='overflow-x:auto'><table><tr><th>video"
    yield "".join(f"<th>{name}" for name in names)
    for number, video in enumerate(videos):
        name = _text(os.path.basename(video.video))
        link = f'<a href="#v{number}">{name}</a>' if number < _MAX_VIDEOS else name
        yield f"<tr><td>{link}"
        for figure_name in names:
            figure = video.figures.get(figure_name)
            value = None if figure is None else figure.generated
            yield f"<td class=n>{shown(value, FIGURES[figure_name].digits)}"
    yield "</table></div></section>"


def _section(number: int, video: VideoEvaluation) -> Iterator[str]:
    """Yield frames beside the loudness of the audio, and curves, on one axis of time."""
    yield f"<section id=v{number}><h2>{_text(video.video)}</h2>"
    yield f"<p>{video.faces} of {video.frames} frames at {TRAINING_FPS} per second have a face</p>"
    last = max(1, video.frames)
    yield "<div class=strip>"
    for frame, jpeg in video.thumbnails:
        left = frame / last * (_WIDTH - 92)
        data = base64.b64encode(jpeg).decode()
        yield f'<img style="left:{left:.0f}px" title="{frame / TRAINING_FPS:.2f} s" alt="" '
        yield f'src="data:image/jpeg;base64,{data}">'
    yield "</div>"
    loudness = video.curves.get(_LOUDNESS)
    if loudness:
        yield _svg([loudness], last, filled=True) + "<p class=note>loudness of the audio</p>"
    names = [name for name in video.curves if name != _LOUDNESS]
    for kind in dict.fromkeys(name.partition(",")[0] for name in names):
        group = [name for name in names if name.partition(",")[0] == kind]
        yield _svg([video.curves[name] for name in group], last)
        yield f"<p class=note>{_text(kind)}{_legend(group)}</p>"
    for name, why in video.skipped.items():
        yield f"<p class=note>{_text(name)}: {_text(why)}</p>"
    yield "</section>"


def _legend(names: Sequence[str]) -> str:
    sides = (name.partition(", ")[2] for name in names)
    return "".join(
        f' <span style="color:{colour}">{_text(side)}</span>'
        for side, colour in zip(sides, _COLOURS, strict=False)
        if side
    )


def _svg(curves: Sequence[Sequence[tuple[int, float]]], last: int, *, filled: bool = False) -> str:
    """Return curves over time as SVG, on a common scale."""
    values = [value for curve in curves for _, value in curve]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or 1.0
    lines = []
    for curve, colour in zip(curves, _COLOURS, strict=False):
        points = " ".join(
            f"{frame / last * _WIDTH:.1f},{_HEIGHT - 2 - (value - low) / span * (_HEIGHT - 4):.1f}"
            for frame, value in curve
        )
        if filled:
            lines.append(f'<polygon fill="#ccc" points="0,{_HEIGHT} {points} {_WIDTH},{_HEIGHT}"/>')
        else:
            lines.append(f'<polyline fill="none" stroke="{colour}" points="{points}"/>')
    scale = "" if filled else f'<text x="4" y="12" font-size="11">{high:.2f}</text>'
    scale += "" if filled else f'<text x="4" y="{_HEIGHT - 4}" font-size="11">{low:.2f}</text>'
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}">{"".join(lines)}{scale}</svg>'


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode())
