"""Checks the documentation pages of the frameworks against the presets."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from retinasdk.convert.flavours import list_flavours, load_preset

PAGES = ROOT / "docs" / "convert"
PAGE_OF = {"mmdet": "mmdetection", "odtk-rotated": "odtk"} | {
    f"mmrotate-{version}": "mmrotate" for version in ("le90", "le135", "oc")
}
# Their pages have the table of another one: of mmdetection, of ODTK for upright boxes, and of mmrotate's le90.
WITHOUT_TABLE = {"mmdeploy", "odtk-rotated", "mmrotate-le135", "mmrotate-oc"}
SECTIONS = ["Export", "Import", "Rules", "What to check", "Known limits"]


def rules(flavour: str) -> dict[str, str]:
    """The table of rules on the page of a framework."""
    text = (PAGES / f"{PAGE_OF.get(flavour, flavour)}.md").read_text(encoding="utf-8")
    table = text.split("## Rules")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE))


@pytest.mark.parametrize("flavour", list_flavours())
def test_every_framework_has_its_page(flavour: str) -> None:
    name = PAGE_OF.get(flavour, flavour)
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert f"({name}.md)" in (PAGES / "index.md").read_text(encoding="utf-8")
    assert "retinasdk import" in text


@pytest.mark.parametrize("flavour", sorted(set(list_flavours()) - WITHOUT_TABLE))
def test_the_table_of_rules_is_that_of_the_preset(flavour: str) -> None:
    preset, table = load_preset(flavour), rules(flavour)
    for side in preset.resize.size:
        assert str(side) in table["Resize"]
    assert ("is antialiased" in table["Resize"]) == preset.resize.antialias
    assert ("none" in table["Padding"]) or str(preset.pad_multiple) in table["Padding"].replace("*", "")
    normalise = table["Channels, normalization"]
    assert preset.normalise.channels in normalise
    scale = 255 if "pixels of 0 to 1" in normalise else 1
    for value in preset.normalise.mean:
        assert f"{value / scale:.6g}" in normalise
    assert f"above {preset.score_threshold}" in table["Score threshold"]
    bound = (
        f"above {preset.nms_iou_threshold}" if preset.nms_comparison == ">" else f"{preset.nms_iou_threshold} or more"
    )
    assert bound in table["NMS"]
    assert ("all classes together" in table["NMS"]) == preset.nms_across_classes
    most = "no limit" if preset.max_detections == 65536 else f"at most {preset.max_detections} "
    assert most in table["Detections"]
    unit = {"pair": "(anchor, class) pairs", "anchor": "anchors"}[preset.top_k_unit]
    top_k = "no limit" if preset.top_k == 65536 else f"{preset.top_k} {unit}"
    assert top_k in table["Candidates (top-k)"]
    assert ("+ 1" in table["Box decoding"]) == preset.inclusive_pixels
    assert ("corner" in table["Box decoding"]) == (preset.box_coder.kind == "corner")
    assert ("one scale" in table.get("Back to the original image", "")) == (preset.rescale == "uniform")
    places = {"resized": "resized", "padded": "input", "level": "level", "original": "original", "none": "none"}
    assert places[preset.clip] in table["Clipping"] or (preset.resize.rule == "squash")
    assert ("last pixel" in table["Clipping"]) == (preset.clip_limit == "last_pixel")
    assert {"never": None, "before_nms": "before", "after_nms": "after"}[preset.drop_empty] == next(
        (word for word in ("before", "after") if word in table.get("Empty boxes", "")), None
    )
