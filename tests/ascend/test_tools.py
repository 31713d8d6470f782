"""npu-smi and atc, replaced by scripts."""

from __future__ import annotations

import pytest

from support import fake_cann
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
