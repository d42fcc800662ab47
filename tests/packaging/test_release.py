""".ci/release.py: archives with equal bytes, and an SBOM of a small wheel, made by the real tools without a network."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

MODEL = b"the bytes of a model"


@pytest.fixture
def release() -> Any:
    pytest.importorskip("cyclonedx.validation.json", reason="needs retinasdk[release]")
    pytest.importorskip("cyclonedx_py", reason="needs retinasdk[release]")
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci/release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_archive(path: Path, names: list[str], time: int, owner: str) -> None:
    with gzip.GzipFile(path, "wb", mtime=time) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname, member.uid = len(name), time, owner, time % 1000
            archive.addfile(member, io.BytesIO(name.encode()))


def test_archives_of_other_times_and_owners_have_equal_bytes(release: Any, tmp_path: Path) -> None:
    one, other = tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"
    write_archive(one, ["p/a", "p/b"], 1_700_000_000, "root")
    write_archive(other, ["p/b", "p/a"], 1_800_000_123, "builder")
    for path in (one, other):
        release.repack(path, 1_600_000_000)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as archive:
        assert [(member.name, member.mtime) for member in archive] == [("p/a", 1_600_000_000), ("p/b", 1_600_000_000)]
        content = archive.extractfile("p/b")
        assert content is not None
        assert content.read() == b"p/b"


def write_wheel(path: Path, **files: bytes) -> Path:
    about = "retinasdk-0.1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("retinasdk/__init__.py", "")
        file.writestr("retinasdk/models/people.onnx", MODEL)
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: retinasdk\nVersion: 0.1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
        for name, content in files.items():
            file.writestr(name, content)
    return path


def test_members_that_differ_are_named(release: Any, tmp_path: Path) -> None:
    one = write_wheel(tmp_path / "one.whl", same=b"1", other=b"1", gone=b"1")
    two = write_wheel(tmp_path / "two.whl", same=b"1", other=b"2", new=b"1")
    assert release.differences(one, two) == ["gone", "new", "other"]


def test_the_sbom_is_valid_and_complete(release: Any, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "retinasdk-0.1.0-py3-none-any.whl")
    (tmp_path / "constraints.txt").write_text("")
    bill = json.loads(release.bill_of(wheel, tmp_path / "constraints.txt"))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    product = bill["metadata"]["component"]
    assert (product["name"], product["version"]) == ("retinasdk", "0.1.0")
    assert product["hashes"] == [{"alg": "SHA-256", "content": release.sha256(wheel)}]
    parts = {part["name"]: part for part in bill["components"]}
    assert parts["people"]["hashes"][0]["content"] == hashlib.sha256(MODEL).hexdigest()
    assert parts["pybind11"]["purl"].startswith("pkg:pypi/pybind11@")
    (needs,) = (item["dependsOn"] for item in bill["dependencies"] if item["ref"] == product["bom-ref"])
    assert {"retinasdk/models/people.onnx", parts["pybind11"]["bom-ref"]} <= set(needs)
    assert str(tmp_path) not in json.dumps(bill)
