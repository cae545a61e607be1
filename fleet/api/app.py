"""The routes below ``/api/v1``: a thin skin over the service.

Rule 1: a route decodes, asks the manager's thread, and encodes; it decides nothing.
Rule 2: every refusal is a ``Problem``: a stable code and one sentence, never a trace.
Rule 3: a body is read whole, up to its limit; but an artifact travels in pieces between
        the connection and the disk, and is kept under its own digest only.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from agent.contract.limits import (
    MAX_ARTIFACT_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_METADATA_BYTES,
    NAME_PATTERN,
)
from agent.errors import AgentError
from fleet.errors import ConflictError, DiskFullError, FleetError, NotFoundError, RefusedError
from fleet.registry.artifacts import Artifacts
from fleet.service import (
    bundling,
    client_apps,
    contents,
    endpoints,
    membership,
    overview,
    releases,
    retention,
    rollouts,
    run_arrays,
    run_candidates,
    runs,
    standing,
    trust,
    withdrawal,
)
from fleet.service.app_views import AppPublication
from fleet.service.desk import Ask, Desk
from fleet.service.views import DeviceView, Problem
from fleet.service.wishes import (
    BundleWish,
    HeldOutWish,
    PruneWish,
    Publication,
    RolloutWish,
    RunWish,
    TokenWish,
)

R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)
_WRITE_BYTES = 1024 * 1024
MAX_BODY_BYTES = 2 * (MAX_MANIFEST_BYTES + MAX_METADATA_BYTES)


def make_app(ask: Ask) -> FastAPI:
    """Return the application.

    Args:
        ask: Runs a function on the manager's thread and returns its result.

    """
    app = FastAPI(title="Fieldfare", openapi_url="/api/v1/openapi.json", docs_url=None)
    app.add_exception_handler(FleetError, _refused)
    app.add_exception_handler(AgentError, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(ClientDisconnect, _gone)
    _add_fleet(app, ask)
    _add_releases(app, ask)
    _add_rollouts(app, ask)
    _add_runs(app, ask)
    _add_trust(app, ask)
    _add_upkeep(app, ask)
    return app


def _add_fleet(app: FastAPI, ask: Ask) -> None:
    @app.get("/api/v1/status")
    async def status() -> Response:
        return await _answer(ask, overview.status)

    @app.get("/api/v1/alarms")
    async def alarms() -> Response:
        return await _answer(ask, overview.alarms)

    @app.get("/api/v1/updates")
    async def updates() -> Response:
        return await _answer(ask, overview.updates)

    @app.get("/api/v1/evaluations")
    async def evaluations() -> Response:
        return await _answer(ask, overview.evaluations)

    @app.get("/api/v1/tokens")
    async def tokens() -> Response:
        return await _answer(ask, membership.tokens)

    @app.post("/api/v1/tokens")
    async def create_token(request: Request) -> Response:
        wish = await _body(request, TokenWish)
        return await _answer(ask, lambda desk: membership.create_token(desk, wish))

    @app.get("/api/v1/devices")
    async def devices() -> Response:
        return await _answer(ask, membership.devices)

    @app.get("/api/v1/devices/{device}")
    async def device(device: str) -> Response:
        return await _answer(ask, lambda desk: membership.device(desk, device))

    @app.post("/api/v1/devices/{device}/approve")
    async def approve(device: str) -> Response:
        return await _answer(ask, lambda desk: membership.approve(desk, device))

    @app.post("/api/v1/devices/{device}/readmit")
    async def readmit(device: str) -> Response:
        return await _answer(ask, lambda desk: membership.readmit(desk, device))

    @app.post("/api/v1/devices/{device}/forgive")
    async def forgive(device: str) -> Response:
        def forgiven(desk: Desk) -> DeviceView:
            standing.forgive(desk, device)
            return membership.device(desk, device)

        return await _answer(ask, forgiven)

    @app.post("/api/v1/devices/{device}/revoke")
    async def revoke(device: str) -> Response:
        return await _answer(ask, lambda desk: membership.revoke(desk, device))


def _add_releases(app: FastAPI, ask: Ask) -> None:
    @app.get("/api/v1/targets")
    async def targets() -> Response:
        return await _answer(ask, releases.targets)

    @app.get("/api/v1/releases")
    async def listing() -> Response:
        return await _answer(ask, releases.listing)

    @app.get("/api/v1/releases/{name:path}")
    async def show(name: str) -> Response:
        return await _answer(ask, lambda desk: releases.show(desk, name))

    @app.post("/api/v1/releases")
    async def publish(request: Request) -> Response:
        publication = await _body(request, Publication)
        return await _answer(ask, lambda desk: releases.publish(desk, publication))

    @app.get("/api/v1/artifacts/{digest}")
    async def download(digest: str) -> Response:
        artifacts = await run_in_threadpool(ask, lambda desk: desk.artifacts)
        size, pieces = await run_in_threadpool(releases.download, artifacts, digest)
        return StreamingResponse(
            pieces,
            media_type="application/octet-stream",
            headers={"content-length": str(size)},
        )

    @app.post("/api/v1/bundles")
    async def bundle(request: Request) -> Response:
        wish = await _body(request, BundleWish)
        return await _answer(ask, lambda desk: bundling.create(desk, wish))

    @app.get("/api/v1/content-keys/{digest}")
    async def content_key(digest: str) -> Response:
        return await _answer(ask, lambda desk: contents.show_key(desk, digest))

    @app.put("/api/v1/artifacts/{digest}")
    async def upload(digest: str, request: Request) -> Response:
        artifacts = await run_in_threadpool(ask, lambda desk: desk.artifacts)
        await _take_in(artifacts, digest, request)
        return Response(b"null", media_type="application/json")


def _add_rollouts(app: FastAPI, ask: Ask) -> None:
    @app.get("/api/v1/rollouts")
    async def listing() -> Response:
        return await _answer(ask, rollouts.listing)

    @app.post("/api/v1/rollouts")
    async def create(request: Request) -> Response:
        wish = await _body(request, RolloutWish)
        return await _answer(ask, lambda desk: rollouts.create(desk, wish))

    @app.get("/api/v1/rollouts/{rollout}")
    async def show(rollout: str) -> Response:
        return await _answer(ask, lambda desk: rollouts.show(desk, rollout))

    @app.post("/api/v1/rollouts/{rollout}/{word}")
    async def command(rollout: str, word: str) -> Response:
        return await _answer(ask, lambda desk: rollouts.command(desk, rollout, word))


def _add_runs(app: FastAPI, ask: Ask) -> None:
    @app.get("/api/v1/apps")
    async def apps() -> Response:
        return await _answer(ask, client_apps.listing)

    @app.post("/api/v1/apps")
    async def publish_app(request: Request) -> Response:
        publication = await _body(request, AppPublication)
        return await _answer(ask, lambda desk: client_apps.publish(desk, publication))

    @app.get("/api/v1/runs")
    async def listing() -> Response:
        return await _answer(ask, runs.listing)

    @app.post("/api/v1/runs")
    async def start(request: Request) -> Response:
        wish = await _body(request, RunWish)
        return await _answer(ask, lambda desk: runs.start(desk, wish))

    @app.get("/api/v1/runs/{run}")
    async def show(run: str) -> Response:
        return await _answer(ask, lambda desk: runs.show(desk, run))

    @app.post("/api/v1/runs/{run}/stop")
    async def stop(run: str) -> Response:
        return await _answer(ask, lambda desk: runs.stop(desk, run))

    @app.post("/api/v1/runs/{run}/pause")
    async def pause(run: str) -> Response:
        return await _answer(ask, lambda desk: runs.pause(desk, run))

    @app.post("/api/v1/runs/{run}/resume")
    async def resume(run: str) -> Response:
        return await _answer(ask, lambda desk: runs.resume(desk, run))

    @app.get("/api/v1/runs/{run}/candidate")
    async def candidate(run: str) -> Response:
        return await _answer(ask, lambda desk: run_candidates.candidate(desk, run))

    @app.get("/api/v1/runs/{run}/arrays")
    async def arrays(run: str) -> Response:
        return await _answer(ask, lambda desk: run_arrays.arrays(desk, run))

    @app.post("/api/v1/runs/{run}/held-out")
    async def held_out(run: str, request: Request) -> Response:
        wish = await _body(request, HeldOutWish)
        return await _answer(ask, lambda desk: run_candidates.held_out(desk, run, wish))


def _add_trust(app: FastAPI, ask: Ask) -> None:
    @app.get("/api/v1/trust")
    async def show() -> Response:
        return await _answer(ask, trust.show)

    @app.post("/api/v1/trust")
    async def put_into_force(request: Request) -> Response:
        change = await _body(request, trust.SignedChange)
        return await _answer(ask, lambda desk: trust.put_into_force(desk, change))

    @app.get("/api/v1/endpoints")
    async def where() -> Response:
        return await _answer(ask, endpoints.show)

    @app.get("/api/v1/withdrawals/{name:path}")
    async def preview(name: str) -> Response:
        return await _answer(ask, lambda desk: withdrawal.preview(desk, name))

    @app.get("/api/v1/selections/{text}")
    async def select(text: str) -> Response:
        return await _answer(ask, lambda desk: withdrawal.select(desk, text))

    @app.post("/api/v1/trust/refresh")
    async def refresh() -> Response:
        return await _answer(ask, trust.refresh)


def _add_upkeep(app: FastAPI, ask: Ask) -> None:
    @app.post("/api/v1/prune")
    async def prune(request: Request) -> Response:
        wish = await _body(request, PruneWish)
        return await _answer(ask, lambda desk: retention.prune(desk, dry_run=wish.dry_run))


async def _answer(ask: Ask, use_case: Callable[[Desk], object]) -> Response:
    result = await run_in_threadpool(ask, use_case)
    return Response(msgspec.json.encode(result), media_type="application/json")


async def _body(request: Request, kind: type[S]) -> S:
    content = await _read(request, MAX_BODY_BYTES)
    try:
        return msgspec.json.decode(content or b"{}", type=kind)
    except msgspec.ValidationError as why:
        raise RefusedError(_sentence(str(why))) from why
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise RefusedError(f"the request body is not a {kind.__name__}: {why}") from why


def _sentence(why: str) -> str:
    """Turn ``Expected `int` >= 1 - at `$.uses``` into the asker's words."""
    message, _, where = why.partition(" - at `$.")
    if "matching regex" in message and repr(NAME_PATTERN) in message:
        message = "expected 2 to 63 lower-case letters, digits and hyphens"
    elif "matching regex" in message:
        message = "this word is not allowed there"
    field = where.rstrip("`").replace("_", " ")
    return f"{field}: {message[0].lower()}{message[1:]}" if field else message


async def _take_in(artifacts: Artifacts, digest: str, request: Request) -> None:
    told = request.headers.get("content-length", "0")
    size = int(told) if told.isascii() and told.isdigit() else 0
    if size > MAX_ARTIFACT_BYTES:
        raise RefusedError(_too_long(MAX_ARTIFACT_BYTES))
    async with contextmanager_in_threadpool(artifacts.receive(digest, size)) as upload:
        came, waiting = 0, bytearray()
        async for part in request.stream():
            waiting += part
            came += len(part)
            if came > MAX_ARTIFACT_BYTES:
                raise RefusedError(_too_long(MAX_ARTIFACT_BYTES))
            if len(waiting) >= _WRITE_BYTES:
                await run_in_threadpool(upload.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(upload.write, bytes(waiting))


def _too_long(limit: int) -> str:
    return f"the request body is over {limit} bytes"


async def _read(request: Request, limit: int) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise RefusedError(_too_long(limit))
    return bytes(content)


def _refused(_request: Request, why: Exception) -> Response | Awaitable[Response]:
    match why:
        case NotFoundError():
            status = 404
        case ConflictError():
            status = 409
        case RefusedError() | AgentError():
            status = 422
        case DiskFullError():
            status = 507
        case _:
            status = 500
    problem = Problem(
        code=getattr(why, "code", "internal"),
        why=str(why),
        exit_status=getattr(why, "exit_status", 1),
    )
    return Response(msgspec.json.encode(problem), status_code=status, media_type="application/json")


def _unknown(request: Request, why: Exception) -> Response:
    status = why.status_code if isinstance(why, HTTPException) else 404
    sentence = f"there is no {request.method} {request.url.path} here"
    problem = Problem(code=NotFoundError.code, why=sentence, exit_status=NotFoundError.exit_status)
    return Response(msgspec.json.encode(problem), status_code=status, media_type="application/json")


def _gone(_request: Request, _why: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it; what came of an upload is removed
