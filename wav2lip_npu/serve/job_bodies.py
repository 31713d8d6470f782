"""Receive the body of a request for a job, a form or JSON, and the files that it sends or names."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from anyio import to_thread
from fastapi import Request

from wav2lip_npu.serve import job_requests
from wav2lip_npu.serve.bodies import json_body
from wav2lip_npu.serve.dialogue_fields import Reference
from wav2lip_npu.serve.files import store_upload
from wav2lip_npu.serve.job_requests import JobRequest
from wav2lip_npu.serve.problems import Problem
from wav2lip_npu.serve.records import StoredFile
from wav2lip_npu.serve.remote_files import fetch
from wav2lip_npu.serve.service import Service
from wav2lip_npu.serve.uploads import received_form


@contextlib.asynccontextmanager
async def received_job(
    request: Request, service: Service
) -> AsyncIterator[tuple[JobRequest, dict[str, StoredFile]]]:
    """Yield a request, and the stored files of its form by their names."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        content = await json_body(request)
        if not isinstance(content, dict):
            raise Problem(422, "the body is not a JSON object.")
        yield job_requests.parse_request(content), {}
        return
    async with received_form(request, service.upload_limits) as form:
        own = {name: "-" for name in form.files if name in job_requests.FILES}
        job = job_requests.parse_request({**form.fields, **own})
        for purpose, (name, _) in job.files.items():
            if name in form.files and name not in ("face", "audio", "input_reference"):
                raise Problem(422, f"{name} is the ID of a file, not a file. Send the file as {purpose}.")
        named = {value for _, value in job.files.values()}
        named |= {reference.value for reference in (job.dialogue.references if job.dialogue else ())}
        stray = set(form.files) - {name for name, _ in job.files.values()} - named
        if stray:
            raise Problem(
                422,
                f"{min(stray)!r:.80} is not a file of a job. Send face, audio and those that speakers name.",
            )
        yield job, {name: await store_upload(service, upload) for name, upload in form.files.items()}


async def file_of(
    service: Service, job: JobRequest, purpose: str, parts: Mapping[str, StoredFile]
) -> StoredFile:
    """Return the face or the audio of a request. Raises `Problem`."""
    name, value = job.files.get(purpose, ("", ""))
    if name in parts or value in parts:
        return parts[name if name in parts else value]
    if not name:
        raise Problem(422, f"{purpose} is missing. Send it as a file, or {purpose}_id of an upload.")
    if name == f"{purpose}_id":
        return await to_thread.run_sync(service.file, value)
    if name == f"{purpose}_url":
        return await _remote_file(service, name, value)
    raise Problem(
        422, f"{name} {value!r:.80} is not a file. Send it as a file of the form; paths are not read."
    )


async def referenced(service: Service, name: Reference, parts: Mapping[str, StoredFile]) -> StoredFile:
    """Return a file of a speaker: of the form, by its ID, or from an allowed host. Raises `Problem`."""
    if name.field == "audio_url":
        return await _remote_file(service, *name)
    if name.value in parts:
        return parts[name.value]
    return await to_thread.run_sync(service.file, name.value)


async def _remote_file(service: Service, field: str, url: str) -> StoredFile:
    """Return a file that was fetched from an allowed host. Raises `Problem` and `Wav2LipError`."""
    hosts, limits = service.options.allow_urls, service.upload_limits
    upload = await to_thread.run_sync(fetch, url, hosts, field, limits, limiter=service.fetches)
    try:
        return await store_upload(service, upload)
    finally:
        await to_thread.run_sync(lambda: upload.path.unlink(missing_ok=True))
