"""npu-smi and atc, replaced by scripts."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from support import fake_cann
from support.batch_jobs import wait_for
from wav2lip_npu import signals
from wav2lip_npu.ascend import tools
from wav2lip_npu.errors import ExportError

NPU_SMI = """#!/bin/sh
cat <<'END'
+------------------------------------------------------------------------------------------------+
| npu-smi 25.0.rc1                 Version: 25.0.rc1                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 91.3        43                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3359 / 65536         |
+===========================+===============+====================================================+
| 1     310P3               | Alarm         | NA          50                0    / 0             |
| 0     1                   | 0000:01:00.0  | 0           1578 / 21527                           |
+---------------------------+---------------+----------------------------------------------------+
END
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a shell script as a program on the PATH, without any other programs of the vendor."""
    return lambda name, text: fake_cann.install_program(tmp_path / "bin", name, text, monkeypatch)


def test_cards_and_driver_are_read_from_npu_smi(install):
    install("npu-smi", NPU_SMI)
    cards, driver = tools.npu_smi()
    assert [tuple(card.values()) for card in cards] == [("0", "910B3", "OK"), ("1", "310P3", "Alarm")]
    assert driver == "25.0.rc1"
    assert tools.chip_name() == "Ascend910B3"


def test_failure_of_npu_smi_is_reported_as_its_health(install):
    install("npu-smi", "#!/bin/sh\necho 'dcmi model initialized failed' >&2\nexit 1\n")
    (card,), driver = tools.npu_smi()
    assert card["health"] == "dcmi model initialized failed" and driver is None
    assert tools.chip_name() is None


def test_programs_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.npu_smi() == ([], None)
    assert tools.run_atc(["atc"], tmp_path / "a.om") is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "#!/bin/sh\necho start\necho 'E10001: wrong chip'\necho end\nexit 3\n",
            "code 3: E10001: wrong chip",
        ),
        ("#!/bin/sh\nexit 0\n", "code 0: no output"),
    ],
)
def test_message_of_a_failed_compiler(install, tmp_path, text, message):
    install("atc", text)
    with pytest.raises(ExportError, match=message):
        tools.run_atc(["atc"], tmp_path / "a.om")


@pytest.mark.alone
def test_signal_ends_the_compiler(install, tmp_path):
    """A2: no compiler process and no partial file remains."""
    target, started = tmp_path / "a.om", tmp_path / "started"
    install("atc", f"#!/bin/sh\necho half > {target}\necho $$ > {started}\nsleep 1000 & wait\n")

    def stop() -> None:
        while not started.exists() or not started.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=stop)
    sender.start()
    with pytest.raises(signals.StoppedError), signals.command():
        tools.run_atc(["atc"], target)
    sender.join()
    assert not target.exists()
    wait_for(lambda: not running_in(int(started.read_text())))


def running_in(group: int) -> list[int]:
    """Return the processes of a process group, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(") ")[2].split()[:3]
            if int(process_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found
