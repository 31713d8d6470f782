"""The list of the people of a video, and the `faces` command."""

import itertools
import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
import skimage.data

from support.faces import SHARED, face_frames
from wav2lip_npu.cli.faces import contact_sheet
from wav2lip_npu.cli.main import main
from wav2lip_npu.faces.detection import Detection
from wav2lip_npu.faces.people import VIEW_SIDE, Person, View, find_people
from wav2lip_npu.media.video_reader import Frame, read_frames
from wav2lip_npu.media.video_writer import EncodeOptions, write_video
from wav2lip_npu.media.yuv_image import Colour, YuvImage

FPS = Fraction(25)
LEFT, RIGHT = (20, 40, 80, 110), (200, 60, 250, 120)


class Script:
    """Detects given boxes in each image, in order; `search_frames` must not scale the images."""

    name, short_side, face_side, views = "script", 240, 96, 1

    def __init__(self, shown):
        self._shown = iter(shown)

    def __call__(self, images):
        return [[Detection(np.array(box, np.float32), 1.0) for box in next(self._shown)] for _ in images]


def plain_frames(count, seed=0):
    """Yield copies of one noisy frame, which no cut separates."""
    noise = np.random.default_rng(seed).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    yuv = YuvImage.from_image(cv2.GaussianBlur(noise, (0, 0), 3), Colour())
    return (Frame(index, yuv, index) for index in range(count))


def test_faces_keep_their_person_by_place():
    people = find_people(plain_frames(50), Script([[LEFT, RIGHT], [RIGHT, LEFT]] * 5), FPS)
    assert [len(person.sightings) for person in people] == [10, 10]
    assert [person.spans for person in people] == [[(0, 45)], [(0, 45)]]
    assert {person.point for person in people} == {(50, 75), (225, 90)}


def test_face_that_is_seen_twice_is_no_person():
    people = find_people(plain_frames(50), Script([[LEFT], [LEFT, RIGHT], [LEFT, RIGHT], *[[LEFT]] * 7]), FPS)
    assert [person.point for person in people] == [(50, 75)]


def test_face_that_returns_at_the_same_place_is_the_same_person():
    shown = [[LEFT]] * 5 + [[]] * 20 + [[LEFT]] * 5
    (person,) = find_people(plain_frames(150), Script(shown), FPS)
    assert person.spans == [(0, 20), (125, 145)]
    assert 1 <= len(person.views) <= 24


def test_views_are_few_and_evenly_spaced():
    (person,) = find_people(plain_frames(1000), Script([[LEFT]] * 200), FPS)
    frames = [view.frame for view in person.views]
    assert 6 <= len(frames) <= 12
    assert len({later - earlier for earlier, later in itertools.pairwise(frames)}) == 1


def write_face(path):
    write_video(face_frames(15), path, fps=FPS, options=EncodeOptions(crf=20))
    return path


def test_command_writes_list_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    video = write_face(tmp_path / "talk.mp4")
    assert main(["faces", str(video), "--detector", "retinaface", "--json", "people.json"]) == 0
    report = json.loads((tmp_path / "people.json").read_text())
    (person,) = report["people"]
    assert (report["frames"], person["spans"], person["dubbed_share"]) == (15, [[0, 10]], 1)
    assert abs(person["yaw"][1]) < 25
    assert f"--face_select {person['face_select']}" in capsys.readouterr().out
    height, width = cv2.imread(str(tmp_path / "results/faces.png")).shape[:2]
    assert height == 128 and width > 500


def test_sheet_shows_the_time_of_each_view():
    views = [View(frame, np.full((VIEW_SIDE, VIEW_SIDE, 3), 90, np.uint8), None) for frame in (0, 0, 50)]
    sheet = cv2.imdecode(np.frombuffer(contact_sheet([Person(views=views)], FPS, ".png"), np.uint8), 1)
    first, same, later = (
        sheet[:, VIEW_SIDE // 2 + VIEW_SIDE * column :][:, :VIEW_SIDE] for column in range(3)
    )
    assert (first == same).all() and (first != later).any() and first.max() == 255


def test_command_lists_a_photo(tmp_path, capsys):
    photo, sheet = tmp_path / "photo.png", tmp_path / "sheet.jpg"
    cv2.imwrite(str(photo), skimage.data.astronaut()[:, :, ::-1])
    assert main(["faces", str(photo), "--detector", "retinaface", "--sheet", str(sheet)]) == 0
    assert capsys.readouterr().out.startswith("person 1: 0.0-0.0 s")
    assert sheet.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--sheet", "people.txt"], "--sheet people.txt"),
        (["--sheet", "talk.png"], "talk.png"),
        (["--json", "sub/../sheet.png", "--sheet", "sheet.png"], "sheet.png"),
        (["--max_yaw", "400"], "--max_yaw 400"),
    ],
)
def test_wrong_flags_are_refused_before_any_work(tmp_path, monkeypatch, capsys, words, named):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("talk.png", skimage.data.astronaut()[:, :, ::-1])
    before = (tmp_path / "talk.png").read_bytes()
    assert main(["faces", "talk.png", "--detector", "hog", *words]) == 2
    assert named in capsys.readouterr().err
    assert (tmp_path / "talk.png").read_bytes() == before


def test_video_without_a_face_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("wall.png", np.full((240, 320, 3), 110, np.uint8))
    assert main(["faces", "wall.png", "--detector", "retinaface"]) == 2
    assert "wall.png" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_two_people_of_a_real_clip():
    clip = SHARED / "clips/two_faces_ac3.avi"
    if not clip.is_file():
        pytest.skip(f"{clip} is missing")
    from wav2lip_npu.faces.detectors import load_detector

    people = find_people(read_frames(clip), load_detector("retinaface"), FPS)
    assert len(people) == 2
    assert people[0].sightings[0].pose is not None
