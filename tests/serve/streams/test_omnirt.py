"""OmniRT's protocol: the messages that OpenTalking's client sends, in their order, and what it expects."""

from __future__ import annotations

import base64
import json
import struct

import cv2
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from support.faces import face_frames
from support.sockets import message, socket
from wav2lip_npu.serve.streams.vidx import images_of

SILENCE = np.zeros(7680, np.int16)


@pytest.fixture(scope="module")
def photo() -> str:
    """A PNG image of a face, in base64, as large as photos are."""
    image = next(iter(face_frames(1))).to_image()
    noise = np.random.default_rng(0).integers(0, 6, image.shape, np.uint8)
    text = base64.b64encode(bytes(cv2.imencode(".png", cv2.add(image, noise))[1])).decode()
    assert len(text) > 1 << 16
    return text


def test_opentalking(live, photo, speech_pcm):
    """`FlashTalkWSClient`: init, one answer to each chunk, close; its audio is played with the images."""
    models = live.client.get("/v1/audio2video/models").json()
    assert models["models"] == ["wav2lip"] and models["statuses"][0]["connected"]
    with socket(live, "/v1/audio2video/wav2lip") as client:
        settings = {"prompt": "A person is talking.", "seed": 9999, "wav2lip_postprocess_mode": "basic"}
        size = {"width": 320, "height": 240, "fps": 25, "reference_mode": "frames", "ref_frame_dir": "/etc"}
        client.send(json.dumps({"type": "init", "ref_image": photo, **settings, **size}))
        answer = json.loads(client.recv(timeout=60))
        assert answer["type"] == "init_ok", answer
        assert (answer["width"], answer["height"], answer["fps"]) == (320, 240, 25)
        samples = answer["chunk_samples"]
        assert samples == answer["slice_len"] * 16_000 // 25
        shown = []
        for start in range(0, 4 * samples, samples):
            pcm = np.resize(speech_pcm[start:], samples)
            client.send(b"AUDI" + pcm.tobytes())
            reply = client.recv(timeout=30)
            assert isinstance(reply, bytes) and reply[:4] == b"VIDX"
            assert struct.unpack("<I", reply[4:8])[0] == answer["slice_len"]
            shown += images_of(reply)
        decoded = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR) for image in shown]
        assert {image.shape for image in decoded} == {(240, 320, 3)}
        moved = np.stack(decoded).astype(int).std(0).max(2)
        assert moved[120:200].max() > 5 > moved[:60].max(), "the mouth moves"
        client.send('{"type": "close"}')
        assert message(client) == {"type": "close_ok"}
        # After a lost session the client looks for these words, and begins again.
        client.send(b"AUDI" + pcm.tobytes())
        assert "no active session" in message(client)["message"].lower()


def test_native_messages(live, photo, speech_pcm):
    with socket(live, "/v1/avatar/realtime") as client:
        client.send('{"type": "ping"}')
        assert message(client) == {"type": "pong"}
        client.send(b"AUDI" + SILENCE.tobytes())
        assert message(client)["code"] == "session_required"
        create = {"type": "session.create", "model": "wav2lip", "backend": "auto"}
        client.send(json.dumps({**create, "inputs": {"image_b64": photo}, "config": {"slice_len": 5}}))
        answer = message(client)
        assert answer["type"] == "session.created" and answer["session_id"] and answer["trace_id"]
        expected = {"format": "pcm_s16le", "sample_rate": 16_000, "channels": 1, "chunk_samples": 3200}
        assert answer["audio"] == expected
        video = {"encoding": "jpeg-seq", "wire_magic": "VIDX", "fps": 25, "width": 320, "height": 240}
        assert answer["video"] == video
        path = f"/v1/streams/{answer['session_id']}"
        assert live.client.post(f"{path}/whep", content="v=0").status_code == 409
        for name in ("frames", "audio"):
            with pytest.raises(InvalidStatus) as refused, socket(live, f"{path}/{name}"):
                pass
            assert refused.value.response.status_code == 409
        for index in (1, 2):
            client.send(b"AUDI" + speech_pcm[:3200].tobytes())
            metrics = json.loads(client.recv(timeout=30))
            assert metrics["type"] == "metrics" and metrics["chunk_index"] == index
            assert metrics["infer_ms"] > 0 and metrics["encode_ms"] > 0
            assert len(images_of(client.recv(timeout=30))) == 5
        # Small chunks are answered with the images that are complete.
        counts = []
        for start in range(0, 6400, 640):
            client.send(b"AUDI" + speech_pcm[start : start + 640].tobytes())
            message(client, "metrics")
            counts.append(len(images_of(client.recv(timeout=30))))
        assert counts[0] == 0 and set(counts[5:]) == {1}
        client.send('{"type": "session.cancel"}')
        assert message(client) == {"type": "session.cancelled", "session_id": answer["session_id"]}
        client.send('{"type": "session.close"}')
        assert message(client) == {"type": "session.closed", "session_id": answer["session_id"]}
    assert live.client.get(f"/v1/streams/{answer['session_id']}").json()["status"] == "closed"


@pytest.mark.parametrize(
    ("inputs", "config", "code"),
    [
        ({}, {}, "missing_image"),
        ({"image_b64": "%"}, {}, "bad_image_base64"),
        ({"image_b64": "aGVsbG8="}, {}, "media"),
        ({"face_id": "file_0"}, {}, "not_found"),
        ({"face_id": "\ud800"}, {}, "bad_json"),
        ({}, {"model": "other.pth"}, "missing_image"),
        (None, {"fps": 1000}, "options"),
        (None, {"width": -1, "height": 10}, "options"),
        (None, {"slice_len": "many"}, "options"),
    ],
)
def test_invalid_sessions(live, photo, inputs, config, code):
    with socket(live, "/v1/avatar/realtime") as client:
        wanted = {"image_b64": photo} if inputs is None else inputs
        client.send(json.dumps({"type": "session.create", "inputs": wanted, "config": config}))
        assert message(client)["code"] == code


def test_invalid_messages_keep_the_session(live, photo):
    with socket(live, "/v1/avatar/realtime") as client:
        client.send(json.dumps({"type": "session.create", "inputs": {"image_b64": photo}}))
        assert message(client)["type"] == "session.created"
        for garbage, code in [
            ("{", "bad_json"),
            ("[]", "bad_json"),
            ('{"type": "dance"}', "unsupported_message"),
            (b"VIDX", "bad_audio_magic"),
            (b"", "bad_audio_magic"),
            (b"AUDIx", "bad_audio_chunk"),
        ]:
            client.send(garbage)
            assert message(client)["code"] == code
        client.send(b"AUDI" + SILENCE.tobytes())
        message(client, "metrics")
        assert len(images_of(client.recv(timeout=30))) == 12
