"""Makes the files of a release in dist/: source archive, wheels, SBOM (CycloneDX), and SHA256SUMS of all of them.

    python .ci/release.py [--twice]

The wheels are that of this machine, which has the CUDA kernels if nvcc is there, and the manylinux wheels of wheels.py.

The same commit gives the same bytes with the same compiler and tools: times come from the commit, and the archive is
packed in one order. `--twice` builds again in another folder, and names what differs.

The SBOM lists the wheel, every package of constraints.txt as it is installed for this Python and system, and what the
wheel itself contains of others. It is validated against CycloneDX's schema.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

sys.path.insert(0, str(Path(__file__).resolve().parent))
from wheels import build_wheels, run

_ROOT = Path(__file__).resolve().parent.parent
_SCHEMA = SchemaVersion.V1_6


def sha256(path: Path) -> str:
    """The hash of a file, as hexadecimal text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def repack(archive: Path, seconds: int) -> None:
    """Gives a source archive the time of the commit, one owner and one order, so that its bytes can be made again."""
    packed = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            content = old.extractfile(member) if member.isfile() else None
            member.mtime, member.uid, member.gid, member.uname, member.gname, member.pax_headers = (
                seconds,
                0,
                0,
                "",
                "",
                {},
            )
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(member, content)
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=seconds))


def build(out: Path, seconds: int) -> tuple[Path, Path]:
    """Builds the source archive from this folder, and the wheel from the archive. Returns both paths."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    times = {"SOURCE_DATE_EPOCH": str(seconds)}
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, **times)
    (archive,) = out.glob("*.tar.gz")
    repack(archive, seconds)
    with TemporaryDirectory() as folder:
        with tarfile.open(archive) as file:
            file.extractall(folder)  # nosec B202 - it was made above
        (source,) = Path(folder).iterdir()
        # Paths of the build's folder stay out of the modules.
        flags = f"{os.environ.get('CXXFLAGS', '')} -ffile-prefix-map={source}=."
        run(
            sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, source, **times, CXXFLAGS=flags
        )
    (wheel,) = out.glob("*.whl")
    return archive, wheel


def contained(wheel: Path) -> list[dict[str, Any]]:
    """What the wheel contains beside its own code, as components of CycloneDX."""
    found = []
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        for name in sorted(name for name in names if name.endswith(".onnx")):
            found.append(
                {
                    "type": "machine-learning-model",
                    "bom-ref": name,
                    "name": Path(name).stem,
                    "description": f"{name} in the wheel; its card is beside it",
                    "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(file.read(name)).hexdigest()}],
                    "licenses": [{"license": {"id": "Apache-2.0"}}],
                }
            )
    headers = metadata.version("pybind11")
    found.append(
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/pybind11@{headers}",
            "purl": f"pkg:pypi/pybind11@{headers}",
            "name": "pybind11",
            "version": headers,
            "description": "header-only library, compiled into the modules _native and _native_cuda",
            "licenses": [{"license": {"id": "BSD-3-Clause"}}],
        }
    )
    if any("_native_cuda" in name for name in names):
        version = run("nvcc", "--version").rpartition("release ")[2].partition(",")[0]
        found.append(
            {
                "type": "library",
                "bom-ref": f"cudart-static@{version}",
                "name": "NVIDIA CUDA runtime, static",
                "version": version,
                "description": "linked into the module _native_cuda",
                "licenses": [{"license": {"name": "NVIDIA CUDA Toolkit End User License Agreement"}}],
            }
        )
    return found


def manylinux_parts(wheels: list[Path]) -> list[dict[str, Any]]:
    """The manylinux wheels, and the C++ library that their modules contain, as components of CycloneDX."""
    if not wheels:
        return []
    zig = metadata.version("ziglang")
    library = {
        "type": "library",
        "bom-ref": f"pkg:pypi/ziglang@{zig}#libc++",
        "purl": f"pkg:pypi/ziglang@{zig}#libc++",
        "name": "libc++, libc++abi and libunwind of Zig",
        "version": zig,
        "description": "linked into the modules of the manylinux wheels",
        "licenses": [{"expression": "Apache-2.0 WITH LLVM-exception"}],
    }
    files = [
        {
            "type": "file",
            "bom-ref": wheel.name,
            "name": wheel.name,
            "hashes": [{"alg": "SHA-256", "content": sha256(wheel)}],
        }
        for wheel in wheels
    ]
    return [library, *files]


def bill_of(wheel: Path, constraints: Path, manylinux: list[Path] | None = None) -> str:
    """The SBOM of a wheel, of the manylinux wheels and of the packages that `constraints` pins, as JSON."""
    with TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        python = Path(folder) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        run(*pip, "--require-hashes", "--requirement", constraints)
        run(*pip, "--no-deps", wheel)
        options = ("--pyproject", _ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible")
        bill = json.loads(run(sys.executable, "-m", "cyclonedx_py", "environment", *options, python))
    product = bill["metadata"]["component"]
    product["hashes"] = [{"alg": "SHA-256", "content": sha256(wheel)}]
    product.pop("externalReferences", None)  # where the wheel lay on this machine
    parts = contained(wheel) + manylinux_parts(manylinux or [])
    bill.setdefault("components", []).extend(parts)
    for item in bill["dependencies"]:
        if item["ref"] == product["bom-ref"]:
            item["dependsOn"] = sorted({*item.get("dependsOn", []), *(part["bom-ref"] for part in parts)})
    text = json.dumps(bill, indent=1)
    problem = JsonStrictValidator(_SCHEMA).validate_str(text)
    if problem is not None:
        raise SystemExit(f"release: the SBOM is not valid CycloneDX {_SCHEMA.to_version()}: {problem}")
    return text


def differences(first: Path, second: Path) -> list[str]:
    """The names of the members that differ between two wheels."""
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        names = sorted({*one.namelist(), *other.namelist()})
        both = {*one.namelist()} & {*other.namelist()}
        return [name for name in names if name not in both or one.read(name) != other.read(name)]


def main() -> int:
    """Makes the files; with `--twice`, exit status 1 if the second build differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twice", action="store_true", help="build again, and compare")
    arguments = parser.parse_args()
    dist = _ROOT / "dist"
    changed = run("git", "status", "--porcelain").splitlines()
    if changed:
        raise SystemExit(f"release: {len(changed)} files differ from the commit; commit them first: {changed[0][3:]}")
    seconds = int(run("git", "log", "-1", "--format=%ct"))
    archive, wheel = build(dist, seconds)
    bill = dist / f"{archive.name.removesuffix('.tar.gz')}.cdx.json"
    manylinux = build_wheels(archive, dist, SOURCE_DATE_EPOCH=str(seconds))
    bill.write_text(bill_of(wheel, _ROOT / "constraints.txt", manylinux) + "\n", encoding="utf-8")
    files = (archive, wheel, *manylinux, bill)
    (dist / "SHA256SUMS").write_text(
        "".join(f"{sha256(file)}  {file.name}\n" for file in sorted(files)), encoding="utf-8"
    )
    print((dist / "SHA256SUMS").read_text(encoding="utf-8"), end="")
    if not arguments.twice:
        return 0
    again = build(_ROOT / "build/release-again", seconds)
    if sha256(again[0]) != sha256(archive):
        print("the second source archive differs")
    for name in differences(wheel, again[1]):
        print(f"the second wheel differs: {name}")
    same = [sha256(one) for one in again] == [sha256(one) for one in (archive, wheel)]
    print("a second build gives the same bytes" if same else "a second build gives other bytes")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
