"""The extras of pyproject.toml, the table of what to install for a module, and `retinasdk doctor` say the same."""

from __future__ import annotations

import ast
import re

import pytest
from paths import ROOT

from retinasdk import MissingDependencyError
from retinasdk._util.lazy import INSTALL, require
from retinasdk.doctor.packages import EXTRAS, PACKAGES

NOT_FOR_USERS = {"docs", "fuzz", "lint", "release", "test"}
NOT_IN_ALL = {"all", "export", "gpu", "ray", *NOT_FOR_USERS}
DISTRIBUTIONS = {"PIL": "pillow", "prometheus_client": "prometheus-client", "yaml": "pyyaml"}


def read_extras() -> dict[str, list[str]]:
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    whole = re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)
    pairs = re.findall(r"^([a-z]+) = (\[.*?\])$", whole, re.MULTILINE | re.DOTALL)
    return {name: ast.literal_eval(items) for name, items in pairs}


EXTRAS_OF_PROJECT = read_extras()


def distributions(extra: str) -> set[str]:
    return {re.split(r"[<>=;\[ ]", requirement, maxsplit=1)[0] for requirement in EXTRAS_OF_PROJECT[extra]}


def test_all_has_every_extra_for_a_cpu() -> None:
    (requirement,) = EXTRAS_OF_PROJECT["all"]
    named = re.fullmatch(r"retinasdk\[(.*)\]", requirement)
    assert named is not None
    assert set(named[1].split(",")) == set(EXTRAS_OF_PROJECT) - NOT_IN_ALL


@pytest.mark.parametrize("module", sorted(INSTALL))
def test_the_extra_of_a_module_installs_it(module: str) -> None:
    extra = re.fullmatch(r"retinasdk\[(.*)\]", INSTALL[module])
    if extra is not None:
        assert DISTRIBUTIONS.get(module, module) in distributions(extra[1])


def test_every_optional_package_is_in_the_table_and_in_the_doctor() -> None:
    installed = {DISTRIBUTIONS.get(module, module) for module in INSTALL}
    for extra in set(EXTRAS_OF_PROJECT) - {"all", *NOT_FOR_USERS}:
        assert extra in EXTRAS
        known = {item.name for item in PACKAGES if item.extra == extra}
        for name in distributions(extra) - {"tensorrt"}:  # it has checks of its own
            assert name in installed
            assert name in known or extra in ("export", "gpu")  # onnx is in three extras
    assert set(EXTRAS) == set(EXTRAS_OF_PROJECT) - {"all", *NOT_FOR_USERS}


def test_the_error_has_the_command() -> None:
    with pytest.raises(MissingDependencyError, match=r"^X needs the package no_such, .*: pip install 'no_such'$"):
        require("no_such.part", "X")
    with pytest.raises(MissingDependencyError, match=r"pip install 'opencv-python'$"):
        require("no_such", "--show", package="opencv-python")
