"""Signed apps: put into force, listed, and asked for by the tasks of a run.

Rule 1: an app is a target under its own delegation, never one of the targets keys' own.
Rule 2: a number stands for one content for ever; what is published again with other
        content gets the next number.
Rule 3: the server side of an app is laid out in the manager's home, and loaded only in the
        child without keys.
"""

import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from msgspec.structs import replace
from tuf.api.metadata import Targets

from agent.contract.app_bundle import AppBundle, Setting, WantedApp, decode_bundle, require_target
from agent.contract.rounds import Task
from fleet.errors import NotFoundError, RefusedError
from fleet.rounds import engine
from fleet.rounds.events import RunPlan
from fleet.service.app_views import AppPublication, AppView
from fleet.service.desk import Desk
from fleet.service.wishes import RunWish
from fleet.signing.metadata import app_role, parse

FOLDER = "apps"


def publish(desk: Desk, publication: AppPublication) -> AppView:
    """Put a signed app into force.

    Raises:
        SigningError: Its metadata is not acceptable.
        ContractError: It is no app.
        RefusedError: It is signed under another role, or under a number that is taken.

    """
    bundle = decode_bundle(publication.bundle)
    target, role = require_target(publication.target), app_role(bundle.name)
    said = publication.roles.get(role)
    if said is None or set(publication.roles) - {role, "targets"}:
        raise RefusedError(f"app {bundle.name} is to be signed by {role}, and by no other role")
    if target not in parse(Targets, said).signed.targets or target.split("/")[1] != bundle.name:
        raise RefusedError(f"{role} does not sign {target}")
    held = desk.repository.target(target)
    if held not in {None, publication.bundle}:
        raise RefusedError(f"{target} is another app already: publish again")
    now = datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
    desk.repository.publish_roles(publication.roles, {target: publication.bundle}, now)
    return show(desk, target.removeprefix("apps/").removesuffix(".json"))


def listing(desk: Desk) -> list[AppView]:
    """Return every app in force by name and number."""
    found = [_view(desk, target) for target in _targets(desk)]
    return sorted(found, key=lambda view: (view.name, view.number))


def show(desk: Desk, name: str) -> AppView:
    """Return an app by ``name``, its newest number, or by ``name/number``.

    Raises:
        NotFoundError: There is none.

    """
    return _view(desk, _find(desk, name))


def wanted(desk: Desk, wish: RunWish) -> WantedApp | None:
    """Return the app that the tasks of a run are for, or None where none is asked for.

    Raises:
        NotFoundError: There is none of this name.

    """
    if not wish.client_app:
        return None
    target = _find(desk, wish.client_app)
    return WantedApp(target=target, digest=sha256(_bytes(desk, target)).hexdigest())


def server_of(desk: Desk, wish: RunWish) -> RunWish:
    """Return the wish with the server side of its app, where it names no other.

    Raises:
        NotFoundError: There is no app of this name.
        RefusedError: Its files cannot be laid out.

    """
    if not wish.client_app or wish.app or wish.app_folder:
        return wish
    content = _bytes(desk, _find(desk, wish.client_app))
    bundle = decode_bundle(content)
    if bundle.server is None:
        return wish
    folder = _lay_out(desk.config.home / FOLDER / sha256(content).hexdigest()[:16], bundle)
    return replace(wish, app=bundle.server, app_folder=str(folder))


def lay_out_again(desk: Desk, plan: RunPlan) -> None:
    """Lay out the server side of a run's app where it is gone: the home was restored.

    Raises:
        NotFoundError: The app was withdrawn since.
        RefusedError: Its files cannot be laid out.

    """
    if plan.client_app is None or plan.app_folder is None or Path(plan.app_folder).is_dir():
        return
    if Path(plan.app_folder).parent == desk.config.home / FOLDER:
        content = _bytes(desk, plan.client_app.target)
        _lay_out(Path(plan.app_folder), decode_bundle(content))


def dressed(plan: RunPlan, task: Task) -> Task:
    """Return a task with the app that it is for; judging a candidate is for none."""
    judging = engine.task_name(plan.run, 0, task.device)
    if plan.client_app is None or task.task == judging:
        return task
    places = {device: place for place, device in enumerate(plan.participants)}
    settings: dict[str, Setting] = {"num-server-rounds": plan.rounds}
    app = replace(
        plan.client_app,
        settings={**settings, **plan.client_app.settings},
        partition=places.get(task.device, 0),
        partitions=len(plan.participants),
    )
    return replace(task, app=app)


def _targets(desk: Desk) -> list[str]:
    held = desk.repository.published().delegated
    roles = [signed for name, signed in held.items() if name.startswith("apps-")]
    return [target for signed in roles for target in signed.targets]


def _find(desk: Desk, name: str) -> str:
    plain = name.strip().removeprefix("apps/").removesuffix(".json")
    wanted, _, number = plain.partition("/")
    found = [t for t in _targets(desk) if t.split("/")[1] == wanted]
    if number:
        found = [t for t in found if t == f"apps/{wanted}/{number}.json"]
    if not found:
        known = ", ".join(sorted({t.split("/")[1] for t in _targets(desk)}))
        raise NotFoundError(f"there is no app {name!r}; published are: {known or 'none'}")
    return max(found, key=_number)


def _number(target: str) -> int:
    found = re.search(r"(\d+)\.json$", target)
    return int(found[1]) if found else 0


def _bytes(desk: Desk, target: str) -> bytes:
    content = desk.repository.target(target)
    if content is None:
        raise NotFoundError(f"{target} is not in force any more")
    return content


def _view(desk: Desk, target: str) -> AppView:
    content = _bytes(desk, target)
    bundle = decode_bundle(content)
    return AppView(
        name=bundle.name,
        number=_number(target),
        version=bundle.version,
        target=target,
        digest=sha256(content).hexdigest(),
        client=bundle.client,
        server=bundle.server,
        dependencies=bundle.dependencies,
        files=tuple(bundle.files),
        size=sum(map(len, bundle.files.values())),
    )


def _lay_out(folder: Path, bundle: AppBundle) -> Path:
    try:
        for name, content in bundle.files.items():
            place = folder / name
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            place.write_bytes(content)
            place.chmod(0o644)
    except OSError as why:
        raise RefusedError(f"the app cannot be laid out in {folder}: {why.strerror}") from why
    return folder
