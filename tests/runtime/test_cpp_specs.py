"""libretinasdk refuses the specs that Python refuses, with the same words, and accepts the others."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from libretinasdk import MODEL, CDetector, LibraryError
from paths import DATA
from small_spec import small_spec

from retinasdk import BoxCoder, Level, ModelError, ModelSpec, Resize

pytestmark = pytest.mark.heavy  # compiles the library

NO_FILE = "/no such file.onnx"
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 5, 64, 4096, 4097, 1 << 20, (1 << 20) + 1, 1 << 40, 10**25, -(10**25), 0.0, -0.0, 0.5,
    1.0, 1.5, -2.25, 1e-5, 1e16, 1.5e300, 0.1, "", "a", "b", "it's", 'both \' and "', "tab\t\x7f", "Mädchen\u00ad人",
    "😀\ue000", ">", ">=", "own", "scale", "half_up", "corner", "center_angle", "center_sin_cos", "squash", "fit",
    "native", "original", "after_nms", "anchor", "uniform", "le90", "BGR", [], [1], [1.0, 2], [3, 4, 5.5], [1, 2, 3, 4],
    [4.0, 3.0, 2.0, 1.0], [1, 1, 1, 1, 1], [0, 0, 8, 8, 0.5], [[0, 0, 8, 8]], [[0, 0, 8, 8, 0.5]], ["a", "a"], ["b"],
    {}, {"kind": "corner"}, {"a": "b"}, {"a": 1}, [None], [True], [{"x": ["y"]}],
]  # fmt: skip


def ours(text: str) -> str | None:
    """What libretinasdk says about a spec; None if it accepts it."""
    with pytest.raises(LibraryError) as caught:
        CDetector(NO_FILE, spec_json=text)
    assert caught.value.status == MODEL
    return None if str(caught.value) == f"{NO_FILE} is not the path of a file" else str(caught.value)


def theirs(text: str) -> str | None:
    try:
        ModelSpec.from_json(text)
    except ModelError as error:
        return str(error)
    return None


def bases() -> list[Any]:
    rotated = small_spec(
        levels=(Level("l", "d", ((0.0, 0.0, 8.0, 8.0, 0.5),), None),),
        box_coder=BoxCoder(kind="center_angle", angle_version="le90", weights=(1.0, 1.0, 1.0, 1.0, 2.0)),
    )
    two = small_spec(
        levels=tuple(Level(f"l{i}", f"d{i}", ((-4.0, -4.0, 4.0, 4.0),), None) for i in range(2)),
        resize=Resize("shortest", (800, 1333)),
        max_per_class=7,
        source={"a": "b"},
    )
    return [json.loads(spec.to_json()) for spec in (small_spec(), rotated, two)]


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in [(*path, key), *places(item, (*path, key))]]


def altered(random_: random.Random, base: Any) -> str:
    """A copy of the JSON of a spec with one to three values changed, removed, added or put elsewhere."""
    content = copy.deepcopy(base)
    for _ in range(random_.choice((1, 1, 2, 3))):
        path = random_.choice(places(content) or [("format",)])
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        what = random_.random()
        if what < 0.1 and isinstance(parent, dict):
            del parent[path[-1]]
        elif what < 0.15 and isinstance(parent, dict):
            parent[random_.choice(("topk", "plus_one", "inclusive_pixels", "pad_at_least", "onnx_sha256"))] = (
                random_.choice(VALUES)
            )
        elif what < 0.2 and isinstance(parent, dict):  # The order of the fields decides which error comes first.
            parent[path[-1]] = parent.pop(path[-1])
        else:
            parent[path[-1]] = copy.deepcopy(random_.choice(VALUES))
    return json.dumps(content, ensure_ascii=random_.random() < 0.5)


def test_altered_specs_have_the_same_fate() -> None:
    random_ = random.Random(18)
    accepted = 0
    refused: set[str] = set()
    for _ in range(1500):
        text = altered(random_, random_.choice(bases()))
        expected = theirs(text)
        assert ours(text) == expected, text
        accepted += expected is None
        refused.add(" ".join((expected or "").split()[:5]))
    assert accepted > 80
    assert len(refused) > 60  # Different beginnings of messages.


NO_SPECS = ["[1]", "null", "{}", '"a"', "3", "1.5", "true", '{"format": 2}', '{"format": "1"}', "\ufeff{}"]
NO_SPECS += ['{"format": 1, "format": 3}', '{"format": 1, "x": ' + "[" * 62 + "]" * 62 + "}"]
NO_JSON = ["", "{", "[" * 100_000, '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": "\\ud800"}', "{} {}"]
NO_JSON += ["[" * 65 + "]" * 65, '{"a": 01}', "{'a': 1}", '{"a": 1,}', '{"a": "\t"}', "// a\n{}", "9" * 5000]


@pytest.mark.parametrize("text", NO_SPECS)
def test_texts_that_are_no_spec(text: str) -> None:
    assert ours(text) == theirs(text)


@pytest.mark.parametrize("text", NO_JSON)
def test_texts_that_are_no_json(text: str) -> None:
    # Behind the colon are the words of the JSON library. Python refuses NaN and infinity where it checks the values.
    assert (ours(text) or "").startswith("spec: this is not a model spec, because it is not valid JSON: ")
    assert theirs(text) is not None


def test_a_huge_text_is_refused_before_it_takes_memory() -> None:
    message = ours("[" + "0," * (1 << 23) + "0]")
    assert message == "spec: this is not a model spec, because it is not valid JSON: it has more than 16 MiB"


def test_many_members_take_no_time() -> None:
    text = "{" + ",".join(f'"k{i % 70000}": {i}' for i in range(100_000)) + "}"
    assert ours(text) == theirs(text)


def test_released_specs_are_accepted() -> None:
    texts = [path.read_text("utf-8") for path in [DATA / "spec_format1.json", *Path(DATA / "golden").rglob("*.json")]]
    specs = [text for text in texts if '"base_anchors"' in text]
    assert specs
    for text in specs:
        assert ours(text) == theirs(text)
