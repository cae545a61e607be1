"""Which Python of this device has what an app declares: asked of each, by starting it.

Rule 1: nothing is installed, whatever is missing; what is missing is told by name.
Rule 2: a version that fits is not enough: what an app declares is imported once, before a
        task for it is accepted.
Rule 3: the agent's own Python comes first, and always has the stand-in for flwr.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, field

from agent.config import OWN_ENVIRONMENT
from agent.config_runtime import EnvironmentConfig
from agent.contract.app_bundle import AppBundle, Requirement, missing_of, plain_name
from agent.learn.stand_in import STANDS_FOR

PROBE_SECONDS: Final = 60.0
_FLWR: Final = "flwr"
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_PROBE: Final = """
import sys
answer = sys.stdout
sys.stdout = sys.stderr
import importlib, json
from importlib import metadata
found = {}
for distribution in metadata.distributions():
    name = distribution.metadata["Name"]
    if name:
        found.setdefault(name, distribution.version)
failed = {}
wanted = sys.argv[1:]
if wanted:
    modules = metadata.packages_distributions()
    for name in wanted:
        for module, owners in modules.items():
            if name in owners and module.isidentifier() and not module.startswith("_"):
                try:
                    importlib.import_module(module)
                except BaseException as why:
                    failed[name] = f"{module}: {type(why).__name__}: {why}"[:300]
import numpy
json.dump({"python": "%d.%d.%d" % sys.version_info[:3], "installed": found, "failed": failed,
           "folders": [sys.prefix, sys.base_prefix, *filter(None, sys.path)]}, answer)
"""


class Environment(Struct, frozen=True, kw_only=True):
    """A Python that answered.

    Attributes:
        name: As the operator calls it.
        program: How it is started.
        python: Its version; empty where it cannot be used.
        folders: That it imports from.
        installed: Versions by distribution, as it spells them.
        failed: Distributions that cannot be imported, and why.
        flwr: Whether its own flwr is used.
        why: Why it cannot be used, or empty.

    """

    name: str
    program: str
    python: str = ""
    folders: tuple[str, ...] = ()
    installed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    flwr: bool = False
    why: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """Versions by plain name; of flwr, that of the one which is used."""
        found = {plain_name(name): version for name, version in self.installed.items()}
        return found if self.flwr else found | {_FLWR: STANDS_FOR}


class _Told(Struct, frozen=True, kw_only=True):
    python: str
    installed: dict[str, str]
    folders: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)


def listed(configured: Mapping[str, EnvironmentConfig]) -> dict[str, EnvironmentConfig]:
    """Return every environment in the order of preference."""
    own = EnvironmentConfig(python=Path(sys.executable), flwr=False)
    return {OWN_ENVIRONMENT: own, **dict(sorted(configured.items()))}


def ask(name: str, config: EnvironmentConfig, imports: Iterable[str] = ()) -> Environment:
    """Start a Python and return what it has; ``imports`` are distributions to be imported."""
    program = str(config.python.absolute())
    try:
        answered = subprocess.run(
            [program, "-I", "-B", "-c", _PROBE, *imports],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
        )
        told = msgspec.json.decode(answered.stdout[:_MAX_ANSWER_BYTES], type=_Told)
    except OSError as why:
        return Environment(name=name, program=program, why=f"{program}: {why.strerror or why}")
    except subprocess.TimeoutExpired:
        return Environment(
            name=name, program=program, why=f"{program} did not answer in {PROBE_SECONDS:g} s"
        )
    except msgspec.MsgspecError:
        lines = answered.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1][:300] if lines else "nothing"
        return Environment(name=name, program=program, why=f"{program} says {last}")
    if tuple(int(part) for part in told.python.split(".")[:2]) < (3, 10):
        return Environment(
            name=name, program=program, why=f"{program} is Python {told.python}; apps need 3.10"
        )
    return Environment(
        name=name,
        program=program,
        python=told.python,
        folders=tuple(dict.fromkeys(told.folders)),
        installed=told.installed,
        failed=told.failed,
        flwr=config.flwr and _FLWR in told.installed,
    )


def choose(
    bundle: AppBundle, configured: Mapping[str, EnvironmentConfig]
) -> tuple[Environment | None, str]:
    """Return the first environment that has all an app declares, or why there is none."""
    reasons = []
    for name, config in listed(configured).items():
        found = ask(name, config)
        missing = (found.why,) if found.why else missing_of(bundle, found.versions)
        if not missing:
            wanted = {Requirement.parse(text).name for text in bundle.dependencies}
            names = [n for n in found.installed if plain_name(n) in wanted - {_FLWR}]
            if names or found.flwr:
                found = ask(name, config, [*names, *([_FLWR] if found.flwr else [])])
            missing = (found.why,) if found.why else tuple(found.failed.values())
        if not missing:
            return found, ""
        reasons.append(f"{name}: {', '.join(missing)}")
    return None, f"app {bundle.name} misses in environment {'; '.join(reasons)}"[:480]
