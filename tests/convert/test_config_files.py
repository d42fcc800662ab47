"""Rules from config files: those that the frameworks themselves dumped, and those that people write."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from recorded_case import FOLDER

import retinasdk
from retinasdk import ModelError
from retinasdk.cli.main import main
from retinasdk.convert.configs import read_config
from retinasdk.convert.flavours import load_preset
from retinasdk.convert.importing import ImportReport

CONFIGS = ROOT / "tests" / "data" / "configs"
D2_CASE = FOLDER / "detectron2" / "heads-config"
MM_CASE = FOLDER / "mmdet" / "heads-config"

MODEL = """
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True, pad_size_divisor=32),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=80,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True)),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
"""
PIPELINE = """
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='PackDetInputs')]
"""


def write(folder: Path, **files: str) -> Path:
    """Writes files whose names have `_` for `.`, and returns the path of the last."""
    path = folder
    for name, text in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        path.write_text(text)
    return path


def imported(case: Path, folder: Path, **options: Any) -> ImportReport:
    return retinasdk.import_onnx(case.with_suffix(".onnx"), folder / "model.onnx", **options)


# -- what the frameworks dumped ----------------------------------------------------------------------------------------


def test_dump_of_detectron2() -> None:
    rules = read_config(D2_CASE.with_suffix(".yaml"))
    assert rules.flavours == ("detectron2",)
    assert rules.classes == 3
    assert not rules.problems
    values = dict(rules.values)
    anchors = np.array(values.pop("base_anchors"))
    assert anchors.shape == (5, 4, 4)
    sides = anchors[..., 2:] - anchors[..., :2]
    assert np.sqrt(sides.prod(-1))[0] == pytest.approx([20, 20, 30, 30])  # The size varies slowest.
    assert (sides[..., 1] / sides[..., 0])[0] == pytest.approx([0.4, 1.5, 0.4, 1.5])
    assert ((anchors[..., :2] + anchors[..., 2:]) / 2)[1] == pytest.approx(8)  # OFFSET 0.5 of stride 16.
    assert values == {
        "score_threshold": 0.2,
        "top_k": 150,
        "nms_iou_threshold": 0.6,
        "max_detections": 70,
        "box_weights": [10, 10, 5, 5],
        "channel_order": "RGB",
        "mean": [120, 110, 100],
        "std": [57, 58, 59],
        "resize": "shortest:256,384",
        "strides": [8, 16, 32, 64, 128],
        "pad_multiple": 32,
    }


@pytest.mark.parametrize(
    "path",
    [MM_CASE.with_suffix(".py"), CONFIGS / "mmdet-heads-config.json", CONFIGS / "mmdet-heads-config.yaml"],
    ids=["py", "json", "yaml"],
)
def test_dump_of_mmdetection(path: Path) -> None:
    rules = read_config(path)
    assert (rules.flavours, rules.classes, rules.problems) == (("mmdet", "mmdeploy"), 3, {})
    values = dict(rules.values)
    anchors = np.array(values.pop("base_anchors"))
    assert anchors.shape == (5, 4, 4)
    sides = anchors[..., 2:] - anchors[..., :2]
    assert np.sqrt(sides.prod(-1))[0] == pytest.approx([24, 24 * 2**0.5] * 2)  # The ratio varies slowest.
    assert (sides[..., 1] / sides[..., 0])[0] == pytest.approx([0.4, 0.4, 1.5, 1.5])
    assert ((anchors[..., :2] + anchors[..., 2:]) / 2)[1] == pytest.approx(8)
    assert values == {
        "score_threshold": 0.2,
        "top_k": 150,
        "nms_iou_threshold": 0.6,
        "max_detections": 70,
        "box_weights": [10, 10, 5, 5],
        "box_means": [0.02, -0.01, 0.03, 0.05],
        "channel_order": "BGR",
        "mean": [103.53, 116.28, 123.675],
        "std": [1, 1, 1],
        "resize": "shortest:256,384",
        "strides": [8, 16, 32, 64, 128],
        "pad_multiple": 64,
        "labels": ["bolt", "nut", "washer"],
    }


def test_findings_name_the_file_and_the_key(tmp_path: Path) -> None:
    report = imported(D2_CASE, tmp_path, config=D2_CASE.with_suffix(".yaml"))
    assert "score_threshold 0.2, from heads-config.yaml: MODEL.RETINANET.SCORE_THRESH_TEST" in report.texts("given")
    assert "score_threshold 0.2, from heads-config.yaml" in report.spec.source["given"]
    assert not [text for text in report.texts("assumed") if "usual" in text]
    assert report.spec.pad_multiple == 32


def test_options_win(tmp_path: Path) -> None:
    report = imported(
        D2_CASE, tmp_path, config=str(D2_CASE.with_suffix(".yaml")), score_threshold=0.5, box_weights=[1, 1, 1, 1]
    )
    assert report.spec.score_threshold == 0.5
    assert report.spec.box_coder.weights == (1, 1, 1, 1)
    expected = "score_threshold 0.5, in place of heads-config.yaml: MODEL.RETINANET.SCORE_THRESH_TEST"
    assert expected in report.texts("given")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["import", str(MM_CASE.with_suffix(".onnx")), "-o", str(tmp_path / "model.onnx")]
    assert main([*arguments, "--config", str(MM_CASE.with_suffix(".py")), "--pad-multiple", "128"]) == 0
    printed = capsys.readouterr().out
    assert "given: the rules of mmdet, from heads-config.py" in printed
    assert "given: 3 labels, from heads-config.py: test_dataloader.dataset.metainfo.classes" in printed
    assert "given: padding to a multiple of 128 pixels, in place of heads-config.py" in printed
    assert "box means 0.02 -0.01 0.03 0.05" in printed


# -- contradictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("detectron2/traced-own", {"SCORE_THRESH_TEST": "0.1"}, r"graph has score_threshold 0\.25, but 0\.1 .* from"),
        ("detectron2/traced-own", {"TOPK_CANDIDATES_TEST": "7"}, r"graph has top_k 30, but 7 .* --top-k N"),
        (
            "detectron2/traced-own",
            {"BBOX_REG_WEIGHTS": "[1, 1, 1, 1]"},
            r"by 0\.2 before exp, which does not fit the box",
        ),
        ("detectron2/traced-own", {"NUM_CLASSES": "4"}, r"has 4 classes, but the network has 3"),
    ],
)
def test_the_graph_contradicts_the_config(case: str, change: dict[str, str], message: str, tmp_path: Path) -> None:
    lines = "".join(f"    {key}: {value}\n" for key, value in change.items())
    config = write(tmp_path, config_yaml=f"MODEL:\n  META_ARCHITECTURE: RetinaNet\n  RETINANET:\n{lines}")
    with pytest.raises(ModelError, match=message):
        imported(FOLDER / case, tmp_path, config=config)


def test_a_config_of_another_framework(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"contradicts the rules of detectron2, to which .*heads-config\.yaml belongs"):
        imported(FOLDER / "mmdeploy" / "dynamic-usual", tmp_path, config=D2_CASE.with_suffix(".yaml"))
    with pytest.raises(ModelError, match="is a config of detectron2, but you named mmdet"):
        imported(MM_CASE, tmp_path, config=D2_CASE.with_suffix(".yaml"), flavour="mmdet")


def test_nms_in_the_graph_tells_mmdeploy_from_mmdetection(tmp_path: Path) -> None:
    case = FOLDER / "mmdeploy" / "dynamic-config"
    assert imported(case, tmp_path, config=case.with_suffix(".py")).spec.flavour == "mmdeploy"
    assert imported(MM_CASE, tmp_path, config=MM_CASE.with_suffix(".py")).spec.flavour == "mmdet"


# -- what people write: detectron2 -------------------------------------------------------------------------------------


def test_base_files_and_an_expression_of_detectron2(tmp_path: Path) -> None:
    """The sizes of anchors of its own RetinaNet are an expression for eval, which is computed without it."""
    base = (
        "MODEL:\n  META_ARCHITECTURE: RetinaNet\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval "
        '["[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"]\nINPUT: {FORMAT: BGR}\n'
    )
    own = "_BASE_: Base_1.yaml\nINPUT: {MIN_SIZE_TEST: 640}\nMODEL: {PIXEL_STD: [57.0, 58.0, 59.0]}\n"
    rules = read_config(write(tmp_path, **{"Base_1_yaml": base, "mine_yaml": own}))
    usual = [load_preset("detectron2").anchors.base_anchors(level) for level in range(5)]
    assert np.allclose(rules.values["base_anchors"], usual)
    assert rules.values["resize"] == "shortest:640,1333"
    assert rules.values["std"] == [57, 58, 59]
    assert rules.values["mean"] == [103.53, 116.28, 123.675]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {META_ARCHITECTURE: GeneralizedRCNN}", r"META_ARCHITECTURE is 'GeneralizedRCNN'; only RetinaNet"),
        ("MODEL: {WEIGHTS: a.pth}", r"META_ARCHITECTURE is None"),
        ("_BASE_: missing.yaml", r"its _BASE_ 'missing\.yaml' cannot be read.*config\.yaml that detectron2 wrote"),
        ("_BASE_: mine.yaml", r"_BASE_ is 'mine\.yaml', which cannot be read"),
        ("MODEL: [1", r"cannot be read"),
        ("- 1", r"holds no names and values"),
        ("a: 1", r"no config of a known kind"),
        (
            "MODEL: {META_ARCHITECTURE: RetinaNet, ANCHOR_GENERATOR: {NAME: RotatedAnchorGenerator}}",
            r"NAME is 'RotatedAnchorGenerator'; only DefaultAnchorGenerator",
        ),
    ],
)
def test_refused_configs_of_detectron2(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_config(write(tmp_path, mine_yaml=text))


def test_a_tag_is_never_executed(tmp_path: Path) -> None:
    """It is an error only if nothing else gives the rule."""
    text = (
        "MODEL:\n  META_ARCHITECTURE: RetinaNet\n  RETINANET:\n    SCORE_THRESH_TEST: !!python/object/apply:os.system "
        f"['touch {tmp_path}/run']\n"
    )
    config = write(tmp_path, mine_yaml=text)
    with pytest.raises(ModelError, match=r"SCORE_THRESH_TEST is code and not a value.*--score-threshold SCORE"):
        imported(FOLDER / "detectron2" / "heads-usual", tmp_path, config=config)
    report = imported(FOLDER / "detectron2" / "heads-usual", tmp_path, config=config, score_threshold=0.3)
    assert report.spec.score_threshold == 0.3
    assert not (tmp_path / "run").exists()


def test_an_unknown_backbone_needs_its_padding(tmp_path: Path) -> None:
    text = "MODEL: {META_ARCHITECTURE: RetinaNet, BACKBONE: {NAME: build_my_backbone}, FPN: {IN_FEATURES: [res5]}}"
    config = write(tmp_path, mine_yaml=text)
    with pytest.raises(ModelError, match=r"BACKBONE\.NAME is 'build_my_backbone', and .* --pad-multiple N"):
        imported(FOLDER / "detectron2" / "heads-usual", tmp_path, config=config)
    report = imported(FOLDER / "detectron2" / "heads-usual", tmp_path, config=config, pad_multiple=64)
    assert report.spec.pad_multiple == 64


# -- what people write: mmdetection ------------------------------------------------------------------------------------


def test_base_files_of_mmdetection(tmp_path: Path) -> None:
    """Names, arithmetic, `**`, changed entries and `_delete_`, as configs have them; an import changes nothing."""
    own = """
import os
_base_ = ['model.py', 'data.py']
num_classes = 1 + 2
shared = dict(mean=[10.0, 20.0, 30.0])
model = dict(
    data_preprocessor=dict(std=[1.0, 1.0, 1.0], bgr_to_rgb=False, **shared),
    bbox_head=dict(
        num_classes=num_classes,
        anchor_generator=dict(
            _delete_=True, type='AnchorGenerator', scales=[2 ** (i / 2) * 4 for i in [0, 1]], ratios=[1.0],
            strides=[8, 16, 32, 64, 128])))
model['test_cfg'] = dict(score_thr=0.3, max_per_img=-1)
train_dataloader = dict(num_workers=os.cpu_count())
"""
    rules = read_config(write(tmp_path, model_py=MODEL, data_py=PIPELINE, mine_py=own))
    assert not rules.problems
    assert rules.classes == 3
    assert np.shape(rules.values["base_anchors"]) == (5, 2, 4)
    assert rules.values["base_anchors"][0][0] == [-16, -16, 16, 16]
    expected = {"mean": [10, 20, 30], "std": [1, 1, 1], "channel_order": "BGR", "pad_multiple": 32}
    expected |= {"score_threshold": 0.3, "top_k": 1000, "max_detections": 1 << 20, "resize": "shortest:800,1333"}
    assert {name: rules.values[name] for name in expected} == expected


def test_the_pipeline_of_mmdetection_2(tmp_path: Path) -> None:
    own = """
_base_ = 'model.py'
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(data_preprocessor=None)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False,
        transforms=[
            dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), dict(type='Normalize', **img_norm_cfg),
            dict(type='Pad', size_divisor=64), dict(type='ImageToTensor', keys=['img'])])]
data = dict(test=dict(classes=('bolt', 'nut'), pipeline=test_pipeline))
"""
    values = read_config(write(tmp_path, model_py=MODEL, mine_py=own)).values
    expected = {"mean": [103.53, 116.28, 123.675], "std": [1, 1, 1], "channel_order": "BGR", "pad_multiple": 64}
    expected |= {"resize": "shortest:600,1000", "labels": ["bolt", "nut"]}
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("type='RetinaNet'->type='FasterRCNN'", r"model\.type is 'FasterRCNN'; only RetinaNet"),
        ("type='RetinaHead'->type='FCOSHead'", r"bbox_head\.type is 'FCOSHead'"),
        ("use_sigmoid=True->use_sigmoid=False", r"use_sigmoid is False; scores by softmax"),
        ("dict(type='FocalLoss', use_sigmoid=True)->dict(type='CrossEntropyLoss')", r"scores by softmax"),
        ("min_bbox_size=0->min_bbox_size=8", r"min_bbox_size is 8; a minimum size of boxes is not supported"),
        ("type='nms'->type='soft_nms'", r"nms\.type is 'soft_nms'; only the type 'nms'"),
        ("type='nms'->class_agnostic=True, type='nms'", r"class_agnostic is True; it must be False"),
        ("num_classes=80,->bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False),", r"clip_border is False"),
        ("\nmodel->\n_base_ = 'mmdet::retinanet/x.py'\nmodel", r"cannot be found without mmdetection.*work_dirs"),
        ("\nmodel->\n_base_ = ['gone.py']\nmodel", r"its _base_ 'gone\.py' cannot be read"),
        ("model = dict(->model = build(", r"model is code and not a value: 'build\("),
        ("\nmodel->\n(", r"cannot be read"),
    ],
)
def test_refused_configs_of_mmdetection(change: str, message: str, tmp_path: Path) -> None:
    before, after = change.split("->")
    assert before in MODEL
    with pytest.raises(ModelError, match=message):
        read_config(write(tmp_path, mine_py=MODEL.replace(before, after, 1)))


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("score_threshold", "score_thr=0.05", "score_thr=float(os.environ['SCORE'])"),
        ("base_anchors", "type='AnchorGenerator'", "type='LegacyAnchorGenerator'"),
        ("strides", "strides=[8,", "strides=[first,"),
        ("mean", "mean=[1.0,", "mean=[{{_base_.mean}},"),
        ("resize", "dict(type='Resize', scale=(1333, 800), keep_ratio=True)", "dict(type='Mine')"),
        ("resize", "scale=(1333, 800)", "scale_factor=2.0"),
    ],
)
def test_what_only_the_framework_can_compute(name: str, before: str, after: str, tmp_path: Path) -> None:
    """It is an error that names the key and the option, unless the option is given."""
    text = MODEL.replace("num_classes=80", "num_classes=3") + PIPELINE
    assert before in text
    config = write(tmp_path, mine_py=text.replace(before, after, 1))
    rules = read_config(config)
    assert name in rules.problems
    with pytest.raises(ModelError, match=r"mine\.py: .*Give it as an option: --"):
        imported(FOLDER / "mmdet" / "heads-usual", tmp_path, config=config)


def test_python_is_never_executed(tmp_path: Path) -> None:
    text = f"open('{tmp_path}/run', 'w').close()\n" + MODEL + f"\nx = [open('{tmp_path}/run', 'w') for i in [1]]\n"
    assert read_config(write(tmp_path, mine_py=text)).classes == 80
    assert not (tmp_path / "run").exists()


def test_a_loop_makes_its_names_unknown(tmp_path: Path) -> None:
    text = MODEL + "\nfor size in [1, 2]:\n    model['test_cfg']['score_thr'] = size / 10\n"
    with pytest.raises(ModelError, match="model is code and not a value: 'for size in"):
        read_config(write(tmp_path, mine_py=text))


@pytest.mark.parametrize("text", ["a = " + "(" * 5000, "a = " + "-" * 90000 + "1", "a = 9 ** 9 ** 9 ** 9\n" + MODEL])
def test_hostile_python(text: str, tmp_path: Path) -> None:
    config = write(tmp_path, mine_py=text)
    try:
        assert read_config(config).classes == 80
    except ModelError as error:
        assert str(config) in str(error)  # noqa: PT017  # Either is right, and it ends at once.


@pytest.mark.parametrize(
    "lines",
    [
        "a = [1]\n" + "a = a + a\n" * 40,
        "a = 'x'\n" + "a = a + a\n" * 40,
        "b = [1]\n" + "b = b + b\n" * 11 + "a = [[[x for x in b] for y in b] for z in b]\n",
        "b = [1]\n" + "b = b + b\n" * 11 + "c = [b for x in b]\na = [c for x in b]\n",
        "a = [" + "f()," * 60_000 + "]\n",
    ],
    ids=["list", "text", "comprehensions", "one list", "calls"],
)
def test_python_that_multiplies(lines: str, tmp_path: Path) -> None:
    """A few lines would take gigabytes or hours: this test would not end."""
    config = write(tmp_path, mine_py=lines + MODEL.replace("[0.5, 1.0, 2.0]", "a"))
    try:
        assert "base_anchors" in read_config(config).problems
    except ModelError as error:
        assert "far more than a config needs" in str(error)  # noqa: PT017  # Either is right.


def test_long_lists_are_read(tmp_path: Path) -> None:
    text = "names = ['a'] + [x for x in ['b', 'c']]\n" + MODEL + f"\nx = {list(range(10_000))!r} + [1]\n"
    assert read_config(write(tmp_path, mine_py=text)).classes == 80


def test_bases_that_multiply(tmp_path: Path) -> None:
    """Each names the next one twice, 15 times over: 32,767 files to read."""
    for number in range(15):
        (tmp_path / f"c{number}.py").write_text(f"_base_ = ['c{number + 1}.py', 'c{number + 1}.py']\n")
    (tmp_path / "c15.py").write_text(MODEL)
    with pytest.raises(ModelError, match="name more than 64 files as their _base_"):
        read_config(tmp_path / "c0.py")


@pytest.mark.parametrize(("name", "text"), [("a.py", "_base_ = '{}'\n" + MODEL), ("a.yaml", "_BASE_: '{}'\n")])
def test_a_base_that_is_no_file(name: str, text: str, tmp_path: Path) -> None:
    """A device without an end, and a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe.yaml")
    for base in ("/dev/zero", "pipe.yaml"):
        (tmp_path / name).write_text(text.format(base))
        with pytest.raises(ModelError, match=r"_(base|BASE)_ .* cannot be read: it is no file"):
            read_config(tmp_path / name)


def test_a_value_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"min_bbox_size is '1'; a minimum size of boxes is not supported"):
        read_config(write(tmp_path, mine_py=MODEL.replace("min_bbox_size=0", "min_bbox_size='1'")))


def test_boxes_without_area_are_kept_where_the_config_says_so(tmp_path: Path) -> None:
    """Without `min_bbox_size`, or with a negative one, mmdetection drops no boxes."""
    text = (MODEL.replace("num_classes=80", "num_classes=3") + PIPELINE).replace("min_bbox_size=0", "min_bbox_size=-1")
    report = imported(FOLDER / "mmdet" / "heads-usual", tmp_path, config=write(tmp_path, mine_py=text))
    assert report.spec.drop_empty == "never"


# -- torchvision -------------------------------------------------------------------------------------------------------


def test_arguments_of_torchvision(tmp_path: Path) -> None:
    sizes = [[int(side * scale) for scale in (1, 2 ** (1 / 3), 2 ** (2 / 3))] for side in (32, 64, 128, 256, 512)]
    arguments = {
        "num_classes": 3,
        "score_thresh": 0.2,
        "nms_thresh": 0.4,
        "detections_per_img": 50,
        "topk_candidates": 200,
        "min_size": [640, 600],
        "max_size": 1000,
        "image_mean": [0.4, 0.5, 0.6],
        "anchor_generator": {"sizes": sizes, "aspect_ratios": [[0.5, 1.0, 2.0]] * 5},
        "labels": ["background", "bolt", "nut"],
    }
    rules = read_config(write(tmp_path, mine_json=json.dumps(arguments)))
    usual = [load_preset("torchvision").anchors.base_anchors(level) for level in range(5)]
    assert np.array_equal(rules.values["base_anchors"], usual)
    assert rules.values["resize"] == "shortest:600,1000"
    assert rules.values["mean"] == pytest.approx([102, 127.5, 153])
    assert rules.values["std"] == pytest.approx([58.395, 57.12, 57.375])
    expected = {"score_threshold": 0.2, "nms_iou_threshold": 0.4, "max_detections": 50, "top_k": 200}
    assert {name: rules.values[name] for name in expected} == expected
    assert rules.flavours == ("torchvision",)


def test_refused_arguments_of_torchvision(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the arguments backbone_name are not known; known are num_classes"):
        read_config(write(tmp_path, mine_json='{"score_thresh": 0.1, "backbone_name": "resnet"}'))


# -- other files -------------------------------------------------------------------------------------------------------


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no known config.*rules in a checkpoint \(\.pth\) cannot be read"):
        read_config(write(tmp_path, model_pth="x"))
    with pytest.raises(ModelError, match=r"cannot be read"):
        read_config(tmp_path / "missing.yaml")
    with pytest.raises(ModelError, match=r"cannot be read"):
        read_config(write(tmp_path, deep_json="[" * 100000))
    big = tmp_path / "big.json"
    big.write_text(" " * (5 << 20))
    with pytest.raises(ModelError, match=r"a config has at most"):
        read_config(big)


def test_yaml_aliases_do_not_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    text = "\n".join(lines) + "\nMODEL: {META_ARCHITECTURE: RetinaNet, ANCHOR_GENERATOR: {SIZES: *a19}}\n"
    assert "base_anchors" in read_config(write(tmp_path, mine_yaml=text)).problems
