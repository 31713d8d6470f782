"""Tables of jobs and pairs of files: values are read as written, and all problems are reported at once."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wav2lip_npu.batch.job_table import column_names, with_cells
from wav2lip_npu.batch.jobs import Job, Problem, pair_jobs, read_jobs
from wav2lip_npu.devices.number_formats import PRECISIONS
from wav2lip_npu.dubbing.options import DubOptions
from wav2lip_npu.errors import UsageError
from wav2lip_npu.faces.find_faces import FaceOptions
from wav2lip_npu.media import video_reader
from wav2lip_npu.media.geometry import Geometry
from wav2lip_npu.media.video_writer import PRESETS, EncodeOptions

DEFAULTS = Job(face="", audio="", outfile="")
ROW = {"face": "f.mp4", "audio": "a.wav", "outfile": "o.mp4"}
HEADER = "face,audio,outfile"
FILES = "f.mp4,a.wav,o.mp4"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(folder: Path, content: str | bytes, name: str = "jobs.csv", defaults: Job = DEFAULTS):
    return read_jobs(write(folder / name, content), defaults)


def good(folder: Path, content: str | bytes, name: str = "jobs.csv", defaults: Job = DEFAULTS) -> list[Job]:
    jobs, problems = read(folder, content, name, defaults)
    assert problems == []
    return jobs


def bad(folder: Path, content: str | bytes, name: str = "jobs.csv") -> list[tuple[int, str]]:
    _, problems = read(folder, content, name)
    assert all(problem.text.count("\n") == 0 for problem in problems)
    return [(problem.row, problem.text) for problem in problems]


def refused(folder: Path, content: str | bytes, name: str, *parts: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(folder, content, name)
    for part in parts:
        assert part in str(caught.value)


# Names that a file system allows.
raw_name = st.binary(min_size=1, max_size=10).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"_")))
text_name = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=10
)
awkward = st.sampled_from(
    ["a b", " lead", "trail ", "it's", 'say "hi"', '"', '""', "a;b", "a,b", "a\tb", "a\nb", "a\r\nb", "\r", "\n",
     "\u2028", "\x85", "\ufeff", "ünï 你好 🎬", "\udcff", "#a", "\\", "$(x)", "{}", "%s", "null", "0", "starter"]
)  # fmt: skip
file_name = raw_name | text_name | awkward
names = st.tuples(file_name, file_name, file_name.map(lambda name: name + ".mp4"))


def csv_text(header: list[str], rows: list[list[str]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return file.getvalue().encode("utf-8", "surrogateescape")


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(names, min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"), mark=st.booleans())
def test_file_names_in_csv(rows, delimiter, mark):
    assume(all(char < "\udc80" or char > "\udcff" for row in rows for name in row for char in name))
    content = csv_text(["face", "audio", "outfile"], [list(row) for row in rows], delimiter)
    with tempfile.TemporaryDirectory() as folder:
        jobs = good(Path(folder), b"\xef\xbb\xbf" * mark + content)
        assert [(job.face, job.audio, job.outfile) for job in jobs] == [
            tuple(os.path.join(folder, name) for name in row) for row in rows
        ]
        assert [job.row for job in jobs] == list(range(2, len(rows) + 2))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(names, min_size=1, max_size=5), suffix=st.sampled_from(["jsonl", "ndjson", "json", "JSON"])
)
def test_file_names_in_json(rows, suffix):
    objects = [dict(zip(ROW, row, strict=True)) for row in rows]
    lines = "\n".join(map(json.dumps, objects)) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        document = json.dumps(objects, indent=1)
        jobs = good(Path(folder), document if suffix.lower() == "json" else lines, f"jobs.{suffix}")
        assert [(job.face, job.audio, job.outfile) for job in jobs] == [
            tuple(os.path.join(folder, name) for name in row) for row in rows
        ]
        assert [job.row for job in jobs] == list(range(1, len(rows) + 1))


four = st.tuples(*[st.integers(-999, 9999)] * 4)
side = st.tuples(st.integers(-999, 4999), st.integers(1, 4999)).map(lambda pair: (pair[0], sum(pair)))
box = st.just((-1, -1, -1, -1)) | st.tuples(side, side).map(lambda sides: sides[0] + sides[1])
crops = st.sampled_from([(0, -1, 0, -1), (1, 9999, 2, 3), (900, -1, 20, 21)])
dub_options = st.builds(
    DubOptions,
    faces=st.builds(
        FaceOptions,
        detector=st.sampled_from(["auto", "hog", "retinaface", "s3fd"]),
        face_select=st.sampled_from(["largest", "left", "640,360"]),
        no_face=st.sampled_from(["keep", "error"]),
        pads=four,
        box=box,
        nosmooth=st.booleans(),
        face_det_batch_size=st.integers(1, 4096),
    ),
    geometry=st.builds(Geometry, resize_factor=st.integers(1, 99), rotate=st.booleans(), crop=crops),
    encode=st.builds(EncodeOptions, crf=st.integers(0, 51), preset=st.sampled_from(PRESETS)),
    blend=st.sampled_from(["soft", "hard"]),
    extend=st.sampled_from(video_reader.LOOPS[1:]),
    static=st.booleans(),
    fps=st.floats(0.001, 240),
    mel_shift=st.none() | st.floats(-99, 99),
    wav2lip_batch_size=st.none() | st.integers(1, 4096),
)
whole_jobs = st.builds(
    Job,
    face=st.just("/f.mp4"),
    audio=st.just("/a.wav"),
    outfile=st.just("/o.mp4"),
    dub=dub_options,
    checkpoint_path=st.sampled_from(["starter", "/w.pth"]),
    precision=st.sampled_from(PRECISIONS),
    device=st.sampled_from([None, "cpu", "npu:1"]),
    report=st.sampled_from([None, "/r.json"]),
)


def flat(options: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        found |= flat(value) if is_dataclass(value) else {field.name: value}
    return found


def cell(value: object, style: int) -> str:
    """Format a value as a person or a program would."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return (("false", "true"), ("0", "1"), ("No", "YES"), ("False", "True"))[style][value]
    if isinstance(value, tuple):
        return (" ", ",", ", ", "  ")[style].join(map(str, value))
    return str(float(value)) if style == 3 and isinstance(value, int) else str(value)


@settings(max_examples=50, deadline=None)
@given(job=whole_jobs, style=st.integers(0, 3))
def test_options_in_tables(job, style):
    values = flat(job)
    del values["row"]
    with tempfile.TemporaryDirectory() as folder:
        content = csv_text(list(values), [[cell(value, style) for value in values.values()]])
        assert good(Path(folder), content) == [replace(job, row=2)]
        assert good(Path(folder), json.dumps(values), "jobs.jsonl") == [replace(job, row=1)]
        as_text = json.dumps({name: cell(value, style) for name, value in values.items()})
        assert good(Path(folder), as_text, "jobs.json") == [replace(job, row=1)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_empty_cells_keep_the_defaults(tmp_path, suffix):
    defaults = replace(
        DEFAULTS,
        dub=DubOptions(fps=30, faces=FaceOptions(pads=(1, 2, 3, 4)), mel_shift=2),
        checkpoint_path="w.pth",
        precision="bf16",
        device="cpu",
        report="r.json",
        face="ignored",
    )
    table = f"{HEADER},crf,mel_shift,device\n{FILES},30,,\n"
    if suffix == "jsonl":
        table = json.dumps({**ROW, "crf": 30, "mel_shift": None, "device": ""})
    (job,) = good(tmp_path, table, f"jobs.{suffix}", defaults)
    assert job.dub == replace(defaults.dub, encode=EncodeOptions(crf=30))
    assert replace(job, dub=defaults.dub, row=0) == replace(
        defaults, **{name: os.path.join(tmp_path, file) for name, file in ROW.items()}
    )


def test_every_dub_option_is_a_column():
    """A field of a new type needs a parser."""
    known = column_names(DEFAULTS)
    assert len(known) == len(set(known))
    for name in set(known) - {"row"}:
        job, faults = with_cells(DEFAULTS, {name: "\0"})
        assert job == DEFAULTS
        assert [fault.split(" ")[0] for fault in faults] == [name]


def test_file_names_are_relative_to_the_table(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    table = f"{HEADER},report,checkpoint_path\nf.mp4,../a.wav,/abs/o.mp4,r.json,w.pth\n{FILES},,starter\n"
    write(tmp_path / "sub" / "jobs.csv", table)
    monkeypatch.chdir(tmp_path)
    (first, second), _ = read_jobs("sub/jobs.csv", DEFAULTS)
    assert (first.face, first.audio, first.outfile) == ("sub/f.mp4", "sub/../a.wav", "/abs/o.mp4")
    assert (first.report, first.checkpoint_path) == ("sub/r.json", "sub/w.pth")
    assert (second.report, second.checkpoint_path) == (None, "starter")
    monkeypatch.chdir(tmp_path / "sub")
    assert read_jobs("jobs.csv", DEFAULTS)[0][0].face == "f.mp4"


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("encoding", ["cp1252", "cp1250", "cp1251", "gbk", "shift_jis", "mac_roman"])
def test_table_in_another_encoding_is_refused(tmp_path, encoding, column):
    """B15: a spreadsheet's CSV in a local encoding, whichever cell has non-ASCII letters."""
    word = {"cp1251": "речь", "gbk": "你好", "shift_jis": "日本"}.get(encoding, "é")
    names = ["f.mp4", "a.wav", "o.mp4"]
    names[column] = word + names[column]
    (tmp_path / "f.mp4").touch()
    (tmp_path / names[column]).touch()
    table = "\n".join([HEADER, FILES, ",".join(names), ""]).encode(encoding)
    refused(tmp_path, table, "jobs.csv", "not UTF-8", "row 3", "UTF-8")


def test_names_of_any_bytes_are_read_if_such_files_exist(tmp_path):
    """B15: on Linux a file name need not be UTF-8."""
    raw = os.fsdecode(b"\xe9")
    (tmp_path / f"{raw}.mp4").touch()
    (job,) = good(tmp_path, HEADER.encode() + b"\n\xe9.mp4,a.wav,\xe9 out.mp4\n")
    assert os.path.basename(job.outfile) == f"{raw} out.mp4"


@pytest.mark.parametrize("name", ["note", "id", "comment", "title"])
def test_unknown_column_suggests_no_dissimilar_name(tmp_path, name):
    """D: an unknown column `note` does not suggest rotate."""
    ((row, text),) = bad(tmp_path, f"{HEADER},{name}\n{FILES},x\n")
    assert row == 1 and name in text and "Did you mean" not in text


@pytest.mark.parametrize(
    ("name", "meant"), [("outfle", "outfile"), ("audo", "audio"), ("resize", "resize_factor"), ("CRF", "crf")]
)
def test_typing_error_in_a_column_is_corrected(tmp_path, name, meant):
    header = HEADER.replace(meant, name) if meant in HEADER else f"{HEADER},{name}"
    try:
        texts = [text for _, text in bad(tmp_path, f"{header}\n{FILES},2\n")]
    except UsageError as error:
        texts = [str(error)]
    assert any(meant in text for text in texts)


def test_row_numbers(tmp_path):
    table = '\n face ,audio, outfile\r\n\r\n"a\nb",s,1.mp4\r\n,,\r\n  \r\nc,s,2.mp4,,\n'
    assert [(job.row, os.path.basename(job.face)) for job in good(tmp_path, table)] == [(4, "a\nb"), (7, "c")]
    assert [job.row for job in good(tmp_path, f"{HEADER}\r{FILES}\r\r{FILES}\r")] == [2, 4]
    lines = f"\n{json.dumps(ROW)}\r\n  \n{json.dumps(ROW)}"
    assert [job.row for job in good(tmp_path, lines, "jobs.jsonl")] == [2, 4]
    assert [job.row for job in good(tmp_path, json.dumps(ROW), "jobs.json")] == [1]
    apart = json.dumps({**ROW, "face": "\u2028\x85"}, ensure_ascii=False)
    assert [job.row for job in good(tmp_path, f"\ufeff{apart}\n{apart}", "jobs.jsonl")] == [1, 2]


def test_commas_in_a_table_with_semicolons(tmp_path):
    (job,) = good(tmp_path, "face;audio;outfile;pads;face_select\na,b.mp4;s.wav;o.mp4;0,10,0,0;640,360\n")
    assert os.path.basename(job.face) == "a,b.mp4"
    assert job.dub.faces.pads == (0, 10, 0, 0)
    assert job.dub.faces.face_select == "640,360"
    (job,) = good(tmp_path, '"face";"audio";"outfile"\n"a;b";"c";"d.mp4"\n')
    assert os.path.basename(job.face) == "a;b"


def test_blanks_after_commas(tmp_path):
    """D: a table whose header has blanks after the commas has them in all rows."""
    (job,) = good(tmp_path, 'face, audio, outfile, skip\nf.mp4, "a b.wav", o.mp4, "0-1, 2-3"\n')
    names = [os.path.basename(path) for path in (job.face, job.audio, job.outfile)]
    assert names == ["f.mp4", "a b.wav", "o.mp4"]
    assert job.dub.skip == "0-1,2-3"
    (job,) = good(tmp_path, f"{HEADER}\nf.mp4, a.wav,o.mp4\n")
    assert os.path.basename(job.audio) == " a.wav"


def test_spans_as_a_json_list(tmp_path):
    for spans in ([[0, 1], [2, None]], ["0-1", "2-"], "0-1,2-"):
        (job,) = good(tmp_path, json.dumps([{**ROW, "skip": spans}]), "jobs.json")
        assert job.dub.skip == "0-1,2-"
    assert good(tmp_path, json.dumps({**ROW, "skip": []}), "jobs.jsonl")[0].dub.skip == ""
    for spans in ([[2, 1]], [5], [[1, 2, 3]]):
        ((row, text),) = bad(tmp_path, json.dumps([{**ROW, "skip": spans}]), "jobs.json")
        assert row == 1 and "skip" in text and str(spans) in text


def test_files_that_are_not_tables(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*none\.csv: No such file.*\. Check its path\."):
        read_jobs(tmp_path / "none.csv", DEFAULTS)
    refused(tmp_path, "", "jobs.txt", "unknown table format", "jobs.txt", ".csv, .jsonl, .ndjson or .json")
    for name in ("jobs.csv", "jobs.jsonl"):
        refused(tmp_path, "", name, f"no jobs in {tmp_path / name}")
        refused(tmp_path, "\n \n", name, "no jobs in")
        refused(tmp_path, (HEADER + "\n" + FILES).encode("utf-16"), name, "is not UTF-8 text")
    refused(tmp_path, HEADER + "\n,,\n", "jobs.csv", "no jobs in", "header")
    refused(tmp_path, "[]", "jobs.json", "no jobs in")
    refused(tmp_path, b'{"face": "\xff"}', "jobs.json", "is not UTF-8 text")
    refused(tmp_path, '{"face": ', "jobs.json", "jobs.json: not JSON: Expecting value", "list")
    refused(tmp_path, "[" * 100_000, "jobs.json", "jobs.json: not JSON: ")
    strange = "\nFace,Audio,outfile\nx"
    refused(tmp_path, strange, "jobs.csv", "no column face and no audio", "'Face,Audio,outfile'")
    refused(tmp_path, "face,audio\na,b", "jobs.csv", "no column outfile", "columns face,audio,outfile")
    refused(tmp_path, '"face,audio,outfile\na,b,c', "jobs.csv", "no column face")


def test_problems_of_the_header_are_reported_once(tmp_path):
    table = f"{HEADER},fsp,colour of the curtains,fps,fps,\n{FILES},1,2,3,4,\n{FILES},1,2,3,4,\n"
    misspelt, unknown, twice = bad(tmp_path, table)
    assert misspelt == (1, "unknown column 'fsp'. Did you mean fps?")
    assert unknown[1].startswith(
        "unknown column 'colour of the curtains'. Remove it; the columns are face, audio, outfile, "
    )
    assert "precision" in unknown[1]
    assert "row" not in unknown[1]
    assert twice == (1, "column fps occurs 2 times. Keep one.")
    assert bad(tmp_path, f"{HEADER},row\n{FILES},3\n")[0][1].startswith("unknown column 'row'.")


def test_cells_without_a_column(tmp_path):
    rows = f"{FILES},,\na,b.mp4,c.wav,o.mp4\n"
    ((row, text),) = bad(tmp_path, f"{HEADER}\n{rows}")
    assert (row, "'o.mp4'" in text, "','" in text) == (3, True, True)
    assert [row for row, _ in bad(tmp_path, f"{HEADER},\n{rows}")] == [3]
    assert bad(tmp_path, f"{HEADER}\na,b\n") == [(2, "outfile is missing. A row needs face, audio, outfile.")]


def test_unclosed_quotes(tmp_path):
    jobs, problems = read(tmp_path, f'{HEADER}\n{FILES}\n"a"b,c,d\n{FILES}\n"f.mp4,a.wav,o.mp4\n{FILES}\n')
    assert [job.row for job in jobs] == [2, 4]
    assert [problem.row for problem in problems] == [3, 5]
    assert all(re.match("not CSV: .* Close each double quote", problem.text) for problem in problems)


def test_all_problems_of_all_rows_are_reported(tmp_path):
    table = (
        f"{HEADER},fps,crf,static,pads,precision,preset\n"
        ",,o.mp4,,,,,,\n"
        f"{FILES},fast,12.5,maybe,1 2 3,,\n"
        f"{FILES},25,18,yes,0 1 2 3,fp16,slow\n"
        f"{FILES},0,,,,int4,\n"
        f"{FILES},nan,99,,,int4,warp\n"
    )
    jobs, problems = read(tmp_path, table)
    assert [job.row for job in jobs] == [4]
    expected = [
        (2, "face is missing"),
        (2, "audio is missing"),
        (3, "pads '1 2 3'"),
        (3, "crf '12.5'"),
        (3, "static 'maybe'"),
        (3, "fps 'fast'"),
        (5, "--fps 0"),
        (5, "precision 'int4' is not one of auto, fp32, bf16, fp16, fp32_strict"),
        (6, "preset 'warp' is not one of ultrafast, "),
        (6, "--crf 99"),
        (6, "fps 'nan'"),
        (6, "precision 'int4'"),
    ]
    assert [problem.row for problem in problems] == [row for row, _ in expected]
    for problem, (_, start) in zip(problems, expected, strict=True):
        assert problem.text.startswith(start)
    assert bad(tmp_path, f"{HEADER},precision\n{FILES},int4\n") == [
        (
            2,
            "precision 'int4' is not one of auto, fp32, bf16, fp16, fp32_strict. Correct it or leave it empty.",
        )
    ]


def test_row_with_invalid_options_has_a_job(tmp_path):
    table = f"{HEADER},fps,crf\na,,c,,\n{FILES},x,30\n"
    jobs, (no_audio, no_number) = read(tmp_path, table, defaults=replace(DEFAULTS, audio="ignored"))
    assert jobs == []
    assert no_audio == Problem(2, "audio is missing. A row needs face, audio, outfile.")
    assert no_number.job is not None
    assert (no_number.job.row, no_number.job.dub) == (3, DubOptions(encode=EncodeOptions(crf=30)))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"face": 3}, "face 3 is not text."),
        ({"face": ["a"]}, "face ['a'] is not text."),
        ({"audio": None}, "audio is missing."),
        ({"face": "a\0b"}, "is not text."),
        ({"report": "\ud800"}, "is not text."),
        ({"fps": True}, "fps True is not a number"),
        ({"fps": math.nan}, "fps nan is not a number"),
        ({"fps": math.inf}, "fps inf is not a number"),
        ({"fps": [25]}, "fps [25] is not a number"),
        ({"crf": True}, "crf True is not a whole number."),
        ({"crf": 12.5}, "crf 12.5 is not a whole number."),
        ({"crf": 10**400}, "is not a whole number."),
        ({"static": 2}, "static 2 is not true or false."),
        ({"static": []}, "static [] is not true or false."),
        ({"pads": [0, 10, 0]}, "pads [0, 10, 0] is not four whole numbers"),
        ({"pads": [0, 10, 0, True]}, "is not four whole numbers"),
        ({"pads": {"a": 1}}, "is not four whole numbers"),
        ({"pads": 5}, "pads 5 is not four whole numbers"),
        ({"detector": 1}, "detector 1 is not one of auto, hog, retinaface, s3fd"),
        ({"fsp": 25}, "unknown column 'fsp'. Did you mean fps?"),
        ({"blend": "x" * 1000}, "is not one of soft, hard"),
    ],
)
def test_wrong_json_values(tmp_path, values, text):
    line = json.dumps({**ROW, **values})
    for name in ("jobs.jsonl", "jobs.json"):
        ((row, message),) = bad(tmp_path, line, name)
        assert row == 1
        assert text in message


def test_json_that_is_not_a_row(tmp_path):
    lines = f'{json.dumps(ROW)}\nnot JSON\n["f.mp4"]\n{{"face": "a", "face": "b", "audio": "c", "outfile": "d"}}\n3\n'
    jobs, problems = read(tmp_path, lines, "jobs.jsonl")
    assert [job.row for job in jobs] == [1]
    assert [(problem.row, problem.text.partition(". ")[0]) for problem in problems] == [
        (2, "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (3, "['f.mp4'] is not a JSON object"),
        (4, "column face occurs 2 times"),
        (5, "3 is not a JSON object"),
    ]
    assert bad(tmp_path, "3", "jobs.json") == [(1, '3 is not a JSON object. Write {"name": value}.')]
    assert [row for row, _ in bad(tmp_path, json.dumps([ROW, 3, {}]), "jobs.json")] == [2, 3, 3, 3]


# Pairs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty files to be paired by name."""
    for name in "f/a10.mp4 f/a2.mp4 f/a1.mp4 f/.hidden.mp4 f/sub/b.mp4 s/1.wav s/2.wav s/3.wav".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(faces: list[str], audios: list[str], pair: str = "zip") -> list[tuple[str, str]]:
    jobs = pair_jobs(faces, audios, pair, "out", DEFAULTS)
    assert [job.row for job in jobs] == list(range(1, len(jobs) + 1))
    return [(job.face, job.audio) for job in jobs]


def test_zip_pairs_in_natural_order(folder):
    wanted = [("f/a1.mp4", "s/1.wav"), ("f/a2.mp4", "s/2.wav"), ("f/a10.mp4", "s/3.wav")]
    for faces, audios in (("f", "s"), ("f/*", "s/*.wav"), ("f/a*.mp4", "s/[123].wav")):
        assert pairs([faces], [audios]) == wanted
    defaults = replace(DEFAULTS, precision="bf16", dub=DubOptions(fps=30))
    jobs = pair_jobs(["f"], ["s"], "zip", "out", defaults)
    assert [job.outfile for job in jobs] == ["out/a1__1.mp4", "out/a2__2.mp4", "out/a10__3.mp4"]
    assert all((job.precision, job.dub) == ("bf16", defaults.dub) for job in jobs)


def test_product_pairs_every_combination(folder):
    assert pairs(["f/a2.mp4", "f/a1.mp4"], ["s/1.wav", "s/2.wav"], "product") == [
        ("f/a2.mp4", "s/1.wav"), ("f/a2.mp4", "s/2.wav"), ("f/a1.mp4", "s/1.wav"), ("f/a1.mp4", "s/2.wav"),
    ]  # fmt: skip


def test_entries_keep_their_order_without_duplicates(folder):
    found = pairs(["f/sub/b.mp4", "f", "./f/a2.mp4", "f/**/*.mp4"], ["s/1.wav"], "product")
    assert [face for face, _ in found] == ["f/sub/b.mp4", "f/a1.mp4", "f/a2.mp4", "f/a10.mp4"]
    found = pairs(["f/**"], ["s/1.wav"], "product")
    assert [face for face, _ in found] == ["f/a1.mp4", "f/a2.mp4", "f/a10.mp4", "f/sub/b.mp4"]


def test_existing_names_are_not_patterns(folder):
    odd = folder / "s[1] \n*"
    odd.mkdir()
    (odd / "1[a].wav").touch()
    name = f"{odd}/1[a].wav"
    assert pairs(["f/a1.mp4"], [name]) == [("f/a1.mp4", name)]
    assert pairs(["f/a1.mp4"], [str(odd)]) == [("f/a1.mp4", name)]
    raw = os.fsdecode(b"f/\xff.mp4")
    Path(raw).touch()
    assert pairs([os.fsdecode(b"f/\xff*")], ["s/1.wav"]) == [(raw, "s/1.wav")]


def test_entries_that_cannot_be_paired(folder):
    (folder / "empty").mkdir()
    for words in (["f", "none.mp4"], ["none/*"], ["empty"], ["f/.h*x"]):
        text = f"--faces {words[-1]}: no such file. Pass files, folders or patterns."
        with pytest.raises(UsageError, match=re.escape(text)):
            pairs(words, ["s"])
    with pytest.raises(UsageError, match=r"--audios x\*: no such file"):
        pairs(["f"], ["x*"])
    with pytest.raises(UsageError, match="3 --faces and 1 --audios cannot be paired.*--pair product"):
        pairs(["f"], ["s/1.wav"])
    with pytest.raises(UsageError, match="--pair 'all'"):
        pairs(["f"], ["s"], "all")


def test_reading_tables_imports_no_torch():
    code = "import sys, wav2lip_npu.batch.jobs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
