"""MkDocs hook that generates the pages whose content is defined by the code.

These are the Python API (from `retinasdk.__all__`), the commands (from the argparse parsers), the spec JSON (from
`ModelSpec`), the bundled models (from their cards) and the changelog. A page that is generated cannot go stale.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from griffe import Docstring, DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

import retinasdk
from retinasdk.cli.main import build_parser
from retinasdk.spec import BoxCoder, Level, ModelSpec, Normalise, Resize

_LOGGER = get_plugin_logger("generated_pages")  # a warning fails the strict build
_ROOT = Path(__file__).resolve().parents[2]

# page of reference/python/: title, introduction, public names in the order in which they are shown
_API_PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "detector": (
        "Detector",
        "Load a model once and call it often.",
        (
            *("Detector", "ConvolutionChoice", "DeviceFrame", "Prediction", "Progress", "Tiles", "Suppression", "fuse"),
            "list_images",
        ),
    ),
    "detections": (
        "Detections",
        "The result of a call: one image, any number of objects.",
        ("Detections", "Detection"),
    ),
    "models": (
        "Models and specs",
        "The bundled models, and the spec that says how to turn a network's outputs into boxes. "
        "[Spec JSON](../spec.md) describes the file format.",
        ("list_models", "BundledModel", "ModelSpec", "Level", "BoxCoder", "Resize", "Normalise"),
    ),
    "live": (
        "Live",
        "Detect in videos, cameras and network streams. The guide is [Live streams](../../guides/live.md).",
        ("stream", "Stream", "Frame", "StreamError"),
    ),
    "conversion": (
        "Conversion",
        "Convert models of other frameworks. The guide is [Convert a model](../../convert/index.md).",
        ("import_onnx", "ImportReport", "export_torchvision", "export_deepforest", "ExportReport"),
    ),
    "engines": (
        "Engines and INT8",
        "Build TensorRT engines for the GPU, and quantize models for the CPU. "
        "The guides are [GPU](../../guides/gpu.md) and [INT8](../../guides/int8.md).",
        ("build_engine", "EngineInfo", "quantize_onnx", "QuantizationReport", "QuantizedLayer"),
    ),
    "measuring": (
        "Measuring",
        "Measure accuracy, compare two backends, measure speed, and check the machine.",
        (
            *("evaluate", "Evaluation", "ClassResult", "SizeResult", "OperatingPoint"),
            *(
                "verify_boxes",
                "BoxComparison",
                "verify",
                "Verification",
                "Tolerance",
                "TensorDifference",
                "ImageDifference",
            ),
            *("bench", "BenchReport", "BenchRow", "diagnose", "Diagnosis"),
        ),
    ),
    "errors": (
        "Errors",
        "Wrong arguments raise `TypeError` or `ValueError`. Everything else raises one of these. "
        "[Troubleshooting](../../troubleshooting.md) lists the messages.",
        ("RetinaSdkError", "ModelError", "ImageError", "DeviceError", "MissingDependencyError"),
    ),
}


# `stream` makes a Stream: the arguments of its constructor are no part of the interface.
_OPTIONS = {"Stream": "\n    options:\n      merge_init_into_class: false\n      filters: ['!^_']"}
_EXIT_STATUS = """\
`python -m retinasdk` does the same as `retinasdk`. The exit status is 0 if the command succeeded. It is 2 if its input
cannot be used; then one line on standard error says why. `verify` and `doctor` end with 1 if the comparison or the
machine is not as it should be. Ctrl-C ends a command with 130, SIGTERM with 143."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to the site."""
    pages = {f"reference/python/{name}.md": text for name, text in _api_pages()}
    pages["reference/commands.md"] = _commands_page()
    pages["reference/spec.md"] = _spec_page()
    pages["models.md"] = _models_page()
    pages["changelog.md"] = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Removes `notest`, which tells the tests not to run a code block, from the fences."""
    return re.sub(r"^(\s*```\w+) notest$", r"\1", markdown, flags=re.MULTILINE)


def _api_pages() -> Iterator[tuple[str, str]]:
    public = set(retinasdk.__all__)
    shown_somewhere = {name for _, _, names in _API_PAGES.values() for name in names}
    if public != shown_somewhere:
        _LOGGER.warning("retinasdk.__all__ and the pages differ: %s", ", ".join(sorted(public ^ shown_somewhere)))
    index = ["# Python API", "", "Everything listed here can be imported from `retinasdk`:", ""]
    for page, (title, introduction, names) in _API_PAGES.items():
        shown = [name for name in names if name in public]
        directives = "\n\n".join(f"::: retinasdk.{name}{_OPTIONS.get(name, '')}" for name in shown)
        yield page, f"# {title}\n\n{introduction}\n\n{directives}\n"
        links = ", ".join(f"[`{name}`][retinasdk.{name}]" for name in shown)
        index.append(f"- [{title}]({page}.md): {links}")
    index += ["", "Names that start with an underscore, and modules that this reference does not show, may change."]
    yield "index", "\n".join(index) + "\n"


def _commands_page() -> str:
    parser = build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    summaries = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    # The description goes on with the list of commands, which is a table here.
    lines = ["# Commands", "", (parser.description or "").partition("\n\n")[0], ""]
    lines += ["| command | what it does |", "| --- | --- |"]
    lines += [f"| [`retinasdk {name}`](#{name}) | {_cell(text)} |" for name, text in summaries.items()]
    lines += ["", _EXIT_STATUS, ""]
    for name in summaries:
        lines += _command(name, commands.choices[name])
    return "\n".join(lines) + "\n"


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{parser.description or ''}\n"
    formatter = argparse.HelpFormatter(prog=parser.prog, width=100)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    yield f"```text\n{formatter.format_help().strip()}\n```\n"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        yield f"**{(group.title or 'options').capitalize()}**" + (f" {group.description}" if group.description else "")
        heading = "option" if actions[0].option_strings else "argument"
        yield f"\n| {heading} | meaning |\n| --- | --- |"
        for action in actions:
            yield f"| {_invocation(action)} | {_cell(_help_of(action, parser.prog))} |"
        yield ""
    if parser.epilog:
        yield f"```text\n{(parser.epilog % {'prog': parser.prog}).strip()}\n```\n"


def _invocation(action: argparse.Action) -> str:
    """The option's names and its value, as code."""
    if action.metavar is not None:
        value = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    elif action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = action.dest.upper()
    if not action.option_strings:
        return _code(value)
    takes_value = action.nargs != 0
    return ", ".join(_code(f"{option} {value}" if takes_value else option) for option in action.option_strings)


def _help_of(action: argparse.Action, prog: str) -> str:
    values = {**vars(action), "prog": prog}
    return (action.help or "") % values if action.help else ""


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _spec_page() -> str:
    text = (_ROOT / "docs/_hooks/spec_introduction.md").read_text(encoding="utf-8")
    return text + "\n".join(line for kind in (ModelSpec, Level, BoxCoder, Resize, Normalise) for line in _fields(kind))


def _fields(kind: type[Any]) -> Iterator[str]:
    """A table of the JSON fields of one dataclass, described by its docstring."""
    sections = Docstring(kind.__doc__ or "", parser="google").parse(warnings=False)
    described = {
        attribute.name: attribute.description
        for section in sections
        if section.kind is DocstringSectionKind.attributes
        for attribute in section.value
    }
    fields = {field.name: field for field in dataclasses.fields(kind)}
    missing = sorted(fields.keys() - described.keys())
    if missing:
        _LOGGER.warning("%s: its docstring does not describe %s", kind.__name__, ", ".join(missing))
    yield f"\n## {kind.__name__}\n"
    yield next((section.value for section in sections if section.kind is DocstringSectionKind.text), "")
    yield "\n| field | type | default | meaning |\n| --- | --- | --- | --- |"
    for name, field in fields.items():
        values, meaning = _code(_json_type(str(field.type))), _cell(described.get(name, ""))
        yield f"| `{name}` | {values} | {_default(field)} | {meaning} |"


def _json_type(annotation: str) -> str:
    """The annotation in words of JSON, which has arrays and null."""
    words = re.sub(r"tuple\[(.*), \.\.\.\]", r"array of \1", annotation)
    words = re.sub(r"tuple\[([^\[\]]*)\]", lambda found: f"[{found[1]}]", words)
    for python, json in {"str": "string", "int": "integer", "float": "number", "bool": "true or false"}.items():
        words = re.sub(rf"\b{python}\b", json, words)
    return words.replace("None", "null").replace(" | ", " or ").replace("Mapping[string, string]", "object of strings")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "`{}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, BoxCoder):
        return "all defaults of `BoxCoder`"
    values = {True: "true", False: "false", None: "null"}
    is_word = field.default is None or isinstance(field.default, bool)
    shown = values[field.default] if is_word else str(field.default).replace("(", "[").replace(")", "]")
    return _code(f'"{shown}"' if isinstance(field.default, str) else shown)


def _models_page() -> str:
    models = retinasdk.list_models()
    lines = [(_ROOT / "docs/_hooks/models_introduction.md").read_text(encoding="utf-8")]
    for model in models:
        size = model.path.stat().st_size / 1e6
        card = re.sub(r"^(#+) ", r"#\1 ", model.card.strip(), flags=re.MULTILINE)
        title, _, text = card.partition("\n")
        # Each card has the same headings: the model's name makes their anchors unique.
        for heading in re.findall(r"^### (.+)$", text, flags=re.MULTILINE):
            anchor = f"{model.name}-{heading.lower().replace(' ', '-')}"
            text = text.replace(f"### {heading}\n", f"### {heading} {{ #{anchor} }}\n")
        labels = ", ".join(f"`{label}`" for label in model.spec.labels)
        lines += [title, "", f"{size:.1f} MB. Classes: {labels}.", text, ""]
    return "\n".join(lines)
