"""Options of the HTTP service."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from wav2lip_npu.devices.device import is_device_name
from wav2lip_npu.errors import UsageError
from wav2lip_npu.live.ice_servers import IceServer
from wav2lip_npu.options import check_minimum, check_positive, check_types
from wav2lip_npu.serve.engine_options import EngineOptions
from wav2lip_npu.storage.regular_files import read_limited

TOKEN_VARIABLE = "WAV2LIP_TOKEN"
_LEAST_TOKEN = 16
"""Characters. A shorter token can be guessed by trying."""
_MAX_TOKEN_FILE = 1 << 16
_UNITS = {"": 1, "b": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of the HTTP service.

    Raises:
        UsageError: A value is unknown or out of range.

    """

    host: str = "127.0.0.1"
    """Address to listen on. Others than those of this machine, such as 0.0.0.0, need a token."""
    port: int = 8000
    """TCP port; 0 is a free one."""
    data: str | None = None
    """Folder for uploads, jobs and videos. None: wav2lip-npu/serve in the user's data folder."""
    devices: tuple[str, ...] = ("auto",)
    """Devices, with one process each: npu:0 npu:1 or npu:0,npu:1, cuda:0, cpu; all for every card; auto."""
    checkpoints: str | None = None
    """Folder of generators (.pth, .pt, .safetensors), which jobs select by name. None: only starter."""
    token_file: str | None = None
    """File with one token per line, which clients send. None: the variable WAV2LIP_TOKEN, or no token."""
    max_upload: str = "2GiB"
    """Largest upload: a request with all its files."""
    max_seconds: float = 3600
    """Longest video and audio, in seconds."""
    max_pixels: int = 7680 * 4320
    """Largest frame, in pixels: width times height."""
    max_queue: int = 1000
    """Most jobs that wait. Further ones are refused until one has ended."""
    max_per_client: int | None = None
    """Most unfinished jobs of one token, or of one address without tokens. None: no limit but --max_queue."""
    max_speakers: int = 8
    """Most speakers of a job. All of their audio files together last at most so many times --max_seconds."""
    max_streams: int | None = None
    """Most live streams at the same time. None: as many as the device holds, measured. 0: none."""
    max_streams_per_client: int | None = None
    """Most live streams of one token, or of one address without tokens. None: no limit but --max_streams."""
    max_stream_seconds: float = 3600
    """Longest live stream, in seconds."""
    max_silent_seconds: float = 300
    """Seconds without audio after which a live stream is closed."""
    ice_file: str | None = None
    """File with STUN and TURN servers for WebRTC through routers, one per line, such as
    turn:USER:PASSWORD@HOST:3478. None: viewers must reach this machine."""
    timeout: float | None = None
    """Maximum seconds per job, from its start. None: no limit."""
    keep: str = "24h"
    """Time after which finished jobs, their videos and unused uploads are deleted, such as 30m or 7d."""
    disk_floor: str = "1GiB"
    """Free disk space below which uploads and jobs are refused."""
    allow_urls: tuple[str, ...] = ()
    """Hosts from which face_url and audio_url may be fetched, by https. Empty: none."""
    webhook_hosts: tuple[str, ...] = ()
    """Hosts to which webhook_url may point, by https. Empty: none."""
    webhook_secret_file: str | None = None
    """File with the secret that signs webhooks; required for --webhook_hosts."""

    def __post_init__(self) -> None:
        """Check the values. Files are read later, by `tokens` and `webhook_secret`."""
        check_types(self)
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"--port {self.port} is out of range. Pass 0 to 65535.")
        check_positive(self, "max_seconds")
        check_positive(self, "timeout")
        for name in (name for text in self.devices for name in text.split(",")):
            if name != "all" and not is_device_name(name):
                raise UsageError(
                    f"unknown device {name!r:.40}. Pass --devices auto, all, cpu, cuda:0 or npu:0."
                )
        for host in (*self.allow_urls, *self.webhook_hosts):
            if "/" in host or not host:
                raise UsageError(f"{host!r:.80} is not a host. Pass a name such as files.example.org.")
        check_positive(self, "max_stream_seconds")
        check_positive(self, "max_silent_seconds")
        check_minimum(self, "max_streams", 0)
        for name in ("max_streams_per_client", "max_pixels", "max_queue", "max_per_client", "max_speakers"):
            check_minimum(self, name, 1)
        _bytes_of("max_upload", self.max_upload)
        _bytes_of("disk_floor", self.disk_floor)
        if not self.keep_seconds:
            raise UsageError(f"--keep {self.keep} is out of range. Pass a time above 0, such as 24h.")
        if self.checkpoints is not None and not os.path.isdir(self.checkpoints):
            raise UsageError(f"--checkpoints {self.checkpoints} is not a folder. Create it, or pass another.")
        if self.webhook_hosts and self.webhook_secret_file is None:
            raise UsageError("--webhook_hosts needs --webhook_secret_file FILE, the secret that signs them.")

    @property
    def folder(self) -> Path:
        """Folder of the service's data."""
        if self.data is not None:
            return Path(self.data)
        base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
        return Path(base, "wav2lip-npu", "serve")

    @property
    def upload_bytes(self) -> int:
        """Value of `max_upload`."""
        return _bytes_of("max_upload", self.max_upload)

    @property
    def floor_bytes(self) -> int:
        """Value of `disk_floor`."""
        return _bytes_of("disk_floor", self.disk_floor)

    @property
    def keep_seconds(self) -> float:
        """Value of `keep`."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", self.keep.strip(), re.ASCII)
        if match is None:
            raise UsageError(
                f"--keep {self.keep!r} is not a time. Pass a number with s, m, h or d, as in 24h."
            )
        return float(match[1]) * _SECONDS[match[2]]

    @property
    def engine(self) -> EngineOptions:
        """The options of the other processes."""
        return EngineOptions(
            folder=os.fspath(self.folder),
            devices=self.devices,
            checkpoints=self.checkpoints,
            keep=self.keep_seconds,
            timeout=self.timeout,
        )

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def tokens(self) -> tuple[str, ...]:
        """Return the tokens that clients may send; none if the service is open to this machine.

        Raises:
            UsageError: The file cannot be read, a token is too short, or there is none for other machines.

        """
        if self.token_file is not None:
            source = f"--token_file {self.token_file}"
            text = _secret_text("--token_file", self.token_file)
        else:
            source, text = f"the variable {TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE, "")
        tokens = tuple(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))
        if any(len(token) < _LEAST_TOKEN or not token.isascii() for token in tokens):
            raise UsageError(
                f"{source} has a token of fewer than {_LEAST_TOKEN} ASCII characters. Write a random one, "
                "such as the output of: openssl rand -hex 32"
            )
        if not tokens and self.token_file is not None:
            raise UsageError(f"{source} is empty. Write a token into it: openssl rand -hex 32")
        if not tokens and not self.is_local:
            raise UsageError(
                f"--host {self.host} lets other machines use the service without a token. Pass --token_file "
                f"FILE or set {TOKEN_VARIABLE}, or leave --host out."
            )
        return tokens

    def ice_servers(self) -> tuple[str, ...]:
        """Return the STUN and TURN servers. Raises `UsageError` if the file cannot be read or used."""
        if self.ice_file is None:
            return ()
        text = _secret_text("--ice_file", self.ice_file)
        servers = tuple(filter(None, map(str.strip, text.splitlines())))
        for server in servers:
            IceServer.of(server)
        return servers

    def webhook_secret(self) -> bytes:
        """Return the secret that signs webhooks. Raises `UsageError` if it cannot be read or is too short."""
        if self.webhook_secret_file is None:
            return b""
        secret = _secret_text("--webhook_secret_file", self.webhook_secret_file).strip()
        if len(secret) < _LEAST_TOKEN:
            raise UsageError(
                f"--webhook_secret_file {self.webhook_secret_file} has fewer than {_LEAST_TOKEN} characters. "
                "Write a random secret into it: openssl rand -hex 32"
            )
        return secret.encode()


def _secret_text(flag: str, path: str) -> str:
    try:
        return read_limited(path, _MAX_TOKEN_FILE).decode()
    except OSError as error:
        raise UsageError(f"cannot read {flag} {path}: {error.strerror}. Check its path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{flag} {path} is not text. Check its path.") from None


def _bytes_of(name: str, text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    if match is None or match[2].lower() not in _UNITS or not float(match[1]):
        raise UsageError(
            f"--{name} {text!r} is not a size above 0. Pass bytes, or a number as in 500MB or 2GiB."
        )
    return int(float(match[1]) * _UNITS[match[2].lower()])
