"""What stands in the sdist and in the wheels that were built: `python .ci/contents.py COMMIT SDIST WHEEL WHEEL`.

COMMIT is the one they shall name, or "unknown". The two wheels, one made from the sdist and one from the tree, are to
hold the same files.
"""

import sys
import tarfile
import zipfile
from hashlib import sha256

# What is data, or is read by name: an import would not miss it.
WHEEL = {
    "training/evaluate/measures/unrelated.txt",
    "training/evaluate/published_claims.yaml",
    *(f"training/configs/{name}.yaml" for name in ("demo", "demo_round2", "demo_grpo")),
    *(f"training/label/{name}" for name in ("prices.yaml", "prompts/labeler.v1.jinja2", "prompts/auditor.v1.jinja2")),
    *("training/__init__.py", "cards/__init__.py", "nla_sdk/py.typed"),
    *(f"cards/templates/{name}.jinja2" for name in ("claims.md", "model.md", "code/sdk.py")),
    *(f"nla_sdk/demo/{name}" for name in ("evaluation.json", "rows.parquet", "claims.json", "claims.parquet")),
    *("nla_sdk/demo/av/activation_statistics.safetensors", "nla_sdk/model/statistics/texts.txt"),
    *(
        f"nla_sdk/demo/{role}/{name}"
        for role in ("av", "ar")
        for name in ("nla_meta.yaml", "adapter_model.safetensors")
    ),
    *(f"nla_sdk/serve/page/{name}" for name in ("index.html", "nla.js", "nla.css", "widget.js")),
}
RELEASES = (
    "00-shapes 10-reference 11-solshine 12-nla-at-home 13-easynla 14-matryoshka 15-others 16-oracle-lenses 17-oracles"
)
WHEEL |= {f"nla_sdk/contract/releases/data/{name}.yaml" for name in RELEASES.split()}
# What a wheel is made from, and what is in it beside code: whoever packages the sdist builds and tests from it.
SDIST = {"hatch_build.py", "pyproject.toml", "constraints.txt", "LICENSE", "NOTICE", "CHANGELOG.md", "CITATION.cff"}
SDIST |= {"SECURITY.md", "page/src/style/page.css", "tests/conftest.py", "examples/round_trip_example.py", ".ci/run"}
FOREIGN = (".git", ".venv", "build", "dist", "runs", "results", "data", "node_modules")


def content(wheel: str) -> dict[str, str]:
    """Name → SHA-256. RECORD itself, in another order, holds no more than that."""
    with zipfile.ZipFile(wheel) as archive:
        hashes = {name: sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    return {name: digest for name, digest in hashes.items() if not name.endswith(".dist-info/RECORD")}


def main(commit: str, sdist: str, *wheels: str) -> str:
    made, direct = map(content, wheels)
    faults = (
        [] if made == direct else [f"made from the sdist, the wheel differs in {sorted(made.items() ^ direct.items())}"]
    )
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = set(wheel.namelist())
        said = wheel.read("nla_sdk/commit.txt").decode().strip() if "nla_sdk/commit.txt" in names else "unknown"
    if said != commit:
        faults.append(f"the wheel names the commit {said}, expected {commit}")
    faults += [f"the wheel lacks {name}" for name in sorted(WHEEL - names)]
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    faults += [f"the wheel holds {name}/" for name in sorted(tops - {"nla_sdk", "training", "cards"})]
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    faults += [f"the sdist lacks {name}" for name in sorted(SDIST - held)]
    faults += [f"the sdist holds {name}/" for name in sorted({name.split("/")[0] for name in held} & set(FOREIGN))]
    if faults:
        sys.exit("\n".join(faults))
    return f"{len(names)} files in the wheel, {len(held)} in the sdist, commit {said}"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
