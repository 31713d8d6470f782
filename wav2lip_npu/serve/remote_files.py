"""Fetch a file from an allowed host, like an upload."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from urllib.parse import unquote, urljoin

from wav2lip_npu.errors import MediaError
from wav2lip_npu.serve.outgoing import Connection, allowed_target
from wav2lip_npu.serve.uploads import Upload, UploadLimits, shown_name

_TIMEOUT_S = 30.0
_TOTAL_S = 600.0
_MAX_REDIRECTS = 3
_CHUNK = 1 << 20


def fetch(url: str, hosts: Sequence[str], field: str, limits: UploadLimits) -> Upload:
    """Fetch a file to a new path, which the caller removes. Blocks. Redirects stay on the host.

    Raises:
        UsageError: The address is not allowed.
        MediaError: The host does not answer with a file of an allowed size.

    """
    path = limits.new_path()
    try:
        return _fetch(url, hosts, field, limits, path)
    except (OSError, http.client.HTTPException) as error:
        path.unlink(missing_ok=True)
        raise MediaError(f"cannot fetch {field} {url!r:.200}: {error}. Upload the file instead.") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _fetch(url: str, hosts: Sequence[str], field: str, limits: UploadLimits, path: Path) -> Upload:
    first = target = allowed_target(url, hosts, field, "--allow_urls")
    deadline = monotonic() + _TOTAL_S
    for _ in range(_MAX_REDIRECTS + 1):
        with closing(Connection(target, _TIMEOUT_S)) as connection:
            connection.request("GET", target.path, headers={"User-Agent": "wav2lip-npu", "Accept": "*/*"})
            answer = connection.getresponse()
            if answer.status == 200:
                name = shown_name(unquote(target.path.partition("?")[0]))
                return _received(answer, path, name, limits, deadline)
            if answer.status not in (301, 302, 303, 307, 308):
                raise MediaError(f"cannot fetch {field} {url!r:.200}: HTTP status {answer.status}.")
            url = urljoin(url, answer.headers.get("Location", ""))
        target = allowed_target(url, hosts, field, "--allow_urls")
        if (target.host, target.port) != (first.host, first.port):
            raise MediaError(f"{field} redirects to another host, {target.host:.80}. Pass its final address.")
    raise MediaError(f"{field} redirects more than {_MAX_REDIRECTS} times. Pass its final address.")


def _received(
    answer: http.client.HTTPResponse, path: Path, name: str, limits: UploadLimits, deadline: float
) -> Upload:
    size, sha, stated = 0, hashlib.sha256(), answer.length
    with open(path, "xb") as file:
        # `read` would wait for a whole chunk, and a slow host would never meet the deadline.
        while (stated is None or size < stated) and (chunk := answer.read1(_CHUNK)):
            size += len(chunk)
            if size > limits.max_bytes:
                raise MediaError(f"{name} is larger than {limits.max_bytes:,} bytes. Pass a smaller file.")
            if monotonic() > deadline:
                raise MediaError(f"{name} did not arrive within {_TOTAL_S:g} s. Upload it instead.")
            limits.check_disk()
            sha.update(chunk)
            file.write(chunk)
    if stated is not None and size < stated:
        raise MediaError(f"{name} ended early. Upload it instead.")
    return Upload(path, sha.hexdigest(), size, name)
