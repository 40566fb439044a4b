"""A Docker Space that serves a pair: Dockerfile, pins, card and the package itself, staged and pushed like the rest.

The package goes along as it is installed here, not as a line of requirements: what the index has under this version may
be older than what was tried, and building a wheel would take a build tool and a network. Everything else is pinned to
the versions that are installed here, closed under what they require.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path

from cards import space
from cards.metadata import PORT
from nla_sdk.__about__ import BUILT, commit
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, MissingFileError, MissingRepositoryError
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION, Evaluation
from nla_sdk.halves.fetch import fetch_file
from nla_sdk.halves.half import OTHER
from nla_sdk.halves.hub.renames import named_now
from nla_sdk.halves.inspection import describe

from ..runs.scan import Scanner
from .errors import RefusedError
from .request import PublishRequest
from .stage import Publication, Repository, Staged

LIMITS = ("--max-concurrent", "4", "--max-queue", "32", "--timeout", "300", "--max-tokens", "2048")
"""Of a machine that anybody may ask: what is beyond them is told to come back."""
SERVED = "https://huggingface.co"  # whose pages show a Space in a frame
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass(frozen=True)
class SpaceRequest:
    """What the author asks for.

    Attributes:
        space: owner/name.
        pair: the AV's repository on the Hub, or "demo".
        publish: how it is pushed: private, pull request, branch, tag, collection.
    """

    space: str
    pair: str
    publish: PublishRequest

    def check(self) -> None:
        """Whether it makes sense.

        Raises:
            InputError: it does not.
        """
        if self.space.count("/") != 1 or not all(self.space.split("/")):
            raise InputError(f"--space {self.space!r} is not OWNER/NAME.")
        if self.pair != "demo" and (self.pair.count("/") < 1 or Path(self.pair).is_dir()):
            raise InputError(
                f"--pair {self.pair!r}: a Space loads its pair from the Hub; expected OWNER/NAME-av, or demo. Publish "
                "the pair first (--repo, --checkpoint)."
            )


@dataclass(frozen=True)
class Looked:
    """What was found of the pair.

    Attributes:
        av: the contract of the half that is served first; other: the other half's repository.
        evaluation: None: there is none beside it.
    """

    request: SpaceRequest
    av: Contract
    other: str | None
    evaluation: Evaluation | None

    def named(self) -> dict[str, str]:
        """Every repository that is published to or named, with its kind."""
        models = [one for one in (self.request.pair, self.other) if one is not None and one.count("/") == 1]
        return {self.request.space: "space"} | dict.fromkeys(models, "model")

    def renamed(self, names: Mapping[str, str]) -> Looked:
        """The same with other names of repositories: old name → present one."""
        request = self.request
        space, pair = (named_now(name, names) for name in (request.space, request.pair))
        publish = replace(request.publish, repo=space)
        other = None if self.other is None else named_now(self.other, names)
        return replace(self, request=SpaceRequest(space, pair, publish), other=other)


@dataclass(frozen=True)
class SpacePublication(Publication):
    """A Space that would be published."""

    checked: Looked  # pyright: ignore[reportIncompatibleVariableOverride]

    def rename(self, names: Mapping[str, str]) -> None:
        """Stage it again under other names."""
        again = staged(self.checked.renamed(names), Path(tempfile.mkdtemp(dir=self.folder)))
        self.repositories[:] = again.repositories


@contextmanager
def prepared_space(request: SpaceRequest) -> Iterator[SpacePublication]:
    """Look at the pair and stage the Space in a temporary folder that goes when the block ends.

    Raises:
        InputError: the request makes no sense. RepositoryError, ContractError: the pair is not there, or not whole.
        RefusedError: something must not be published.
    """
    request.check()
    found = looked(request)
    with tempfile.TemporaryDirectory(prefix="nla-space-") as folder:
        yield staged(found, Path(folder))


def looked(request: SpaceRequest) -> Looked:
    """What the pair's own files say of it; its weights are not fetched.

    Raises:
        RepositoryError, ContractError, EvaluationError: they are not there, or damaged.
    """
    half = describe(request.pair)[0].half
    contract, role = half.contract, half.contract.role
    if role != "av":
        raise InputError(f"{request.pair} is an {role.upper()}; pass the repository of its AV ({contract.pair}).")
    if request.pair == "demo":
        return Looked(request, contract, None, load(Path(str(resources.files("nla_sdk").joinpath("demo", EVALUATION)))))
    try:
        evaluation = load(fetch_file(request.pair, EVALUATION, subfolder="evaluation"))
    except (MissingFileError, MissingRepositoryError):  # which of the two a missing folder is
        evaluation = None
    other = contract.pair if contract.pair and contract.pair.count("/") == 1 else None
    assert OTHER[role] == "ar"
    return Looked(request, contract, other, evaluation)


def staged(found: Looked, folder: Path) -> SpacePublication:
    """Write the Space into a folder.

    Raises:
        RefusedError: it holds something that must not be published.
    """
    request, place = found.request, folder / "space"
    place.mkdir(parents=True)
    package = own_package()
    shutil.copytree(package, place / "nla_sdk", ignore=LEFT_OUT)
    if (code := commit()) is not None:  # the copy lies in no checkout that could be asked
        (place / "nla_sdk" / BUILT).write_text(f"{code}\n", encoding="utf-8", newline="\n")
    if request.pair != "demo":
        shutil.rmtree(place / "nla_sdk" / "demo")  # 20 MB of another pair
    pins = pinned(own_needs(package, ("demo", "serve") if request.pair == "demo" else ("serve",)))
    (place / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8", newline="\n")
    (place / "Dockerfile").write_text(dockerfile(request.pair), encoding="utf-8", newline="\n")
    (place / ".dockerignore").write_text("README.md\n.git\n", encoding="utf-8", newline="\n")

    def card(existing: str | None) -> str:
        of = {"other": found.other, "existing": existing}
        return space(request.space, request.pair, found.av, found.evaluation, **of).text

    served = f"nla serve {request.pair}, at https://huggingface.co/spaces/{request.space}"
    repository = Repository(Staged(request.space, "space", place), card, served)
    repository.write_card(None)
    repository.staged.write_manifest()
    # The package is public as it is, its examples of paths and addresses too; what is written here is searched.
    scanner = Scanner([request.space, request.pair])
    secrets = [
        one
        for name, file in repository.staged.files().items()
        if not name.startswith("nla_sdk/")
        for one in scanner.file(file, name)
    ]
    if secrets:
        raise RefusedError([f"{secret} must not be published" for secret in secrets])
    warnings = [] if found.evaluation is not None else [f"{request.pair} has no evaluation: the Space says so."]
    return SpacePublication([repository], warnings, found, folder)


def command(pair: str) -> list[str]:
    """What the Space runs: everybody may ask (`--no-secret`), nothing but explanations (`--read-only`)."""
    serve = ["python", "-m", "nla_sdk.cli", "serve", pair, "--host", "0.0.0.0", "--port", str(PORT)]
    return [*serve, "--no-secret", "--read-only", "--frame", SERVED, *LIMITS]


def dockerfile(pair: str) -> str:
    """Built with the package index alone; runs as the user that Spaces expect (1000), whose folders are its own."""
    version = ".".join(platform.python_version_tuple()[:2])
    return f"""\
FROM python:{version}-slim
RUN useradd --create-home --home-dir /app --uid 1000 user
USER user
ENV HOME=/app \\
    HF_HOME=/app/.cache/huggingface \\
    NLA_CACHE=/app/.cache/nla-sdk \\
    PYTHONUNBUFFERED=1
WORKDIR /app/space
COPY --chown=user requirements.txt .
RUN python -m venv /app/venv && /app/venv/bin/pip install --no-cache-dir -r requirements.txt
ENV PATH=/app/venv/bin:$PATH
COPY --chown=user . .
EXPOSE {PORT}
CMD {json.dumps(command(pair))}
"""


def own_package() -> Path:
    """The folder of the package, as it is installed."""
    return Path(str(resources.files("nla_sdk")))


def own_needs(package: Path, extras: Sequence[str]) -> list[str]:
    """What nla-sdk itself requires, with extras: of a checkout by its pyproject.toml, which an editable installation's
    metadata may be older than; else, and where Python reads no TOML, by the metadata.

    Args:
        package: the folder `nla_sdk`.
    """
    from packaging.requirements import Requirement

    project = package.parent / "pyproject.toml"
    if sys.version_info >= (3, 11) and project.is_file():
        import tomllib

        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return [*table["dependencies"], *(one for extra in extras for one in table["optional-dependencies"][extra])]
    lines = map(Requirement, metadata.requires("nla-sdk") or ())
    wanted = ("", *extras)
    return [str(one) for one in lines if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in wanted)]


def pinned(needs: Sequence[str]) -> list[str]:
    """Requirements, each at the version that is installed here, and what those require, and so on.

    Raises:
        InputError: one of them is not installed here.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    wanted, seen = list(map(Requirement, needs)), set[tuple[str, str]]()
    while wanted:
        one = wanted.pop()
        package = canonicalize_name(one.name)
        for extra in ("", *sorted(one.extras)):
            if (package, extra) in seen:
                continue
            seen.add((package, extra))
            try:
                distribution = metadata.distribution(package)
            except metadata.PackageNotFoundError:
                raise InputError(
                    f'The Space needs {package}, which is not here to be pinned: pip install "nla-sdk[serve]".'
                ) from None
            found[package] = distribution.version.partition("+")[0]  # a local build's mark is not on the index
            lines = map(Requirement, distribution.requires or ())
            wanted += [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]
    return [f"{package}=={version}" for package, version in sorted(found.items())]
