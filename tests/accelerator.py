"""Renders accelerator.yaml like TAP's accelerator engine, as far as accelerator.yaml uses it.

Transforms: Include, Exclude, Merge and Chain in a Combo; ReplaceText with substitutions or a regular expression;
RewritePath; conditions. SpEL: quoted strings, #names, and + between them. Anything else raises AcceleratorError.
Source: docs-tap 1.9, application-accelerator/creating-accelerators/transforms, and spel-samples.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Files = dict[str, bytes]
Values = Mapping[str, Any]

_COMBO = {"include", "exclude", "merge", "chain", "condition", "type"}
_TERM = re.compile(r"""\s*(?:'((?:[^']|'')*)'|#(\w+))\s*""")


class AcceleratorError(Exception):
    """The form has an invalid answer, or the engine part uses something that is not supported here."""


def options_of(accelerator: Any, answers: Values) -> dict[str, Any]:
    """The values of all options: answers, checked as by the form, and defaults."""
    options = {option["name"]: option for option in accelerator["accelerator"]["options"]}
    if unknown := sorted(set(answers) - set(options)):
        raise AcceleratorError(f"there is no option {unknown[0]}")
    values = {}
    for name, option in options.items():
        value = answers.get(name, option.get("defaultValue"))
        if option.get("required") and value in (None, ""):
            raise AcceleratorError(f"{name} is required")
        pattern = option.get("validationRegex")
        if pattern and value != "" and not re.search(pattern, _text(value)):
            raise AcceleratorError(f"{name} is {value!r}, which does not match {pattern}")
        values[name] = value
    return values


def render(accelerator: Any, files: Files, answers: Values) -> Files:
    """The files of a new project."""
    return _combo(accelerator["engine"], files, options_of(accelerator, answers))


def _transform(transform: Any, files: Files, values: Values) -> Files:
    kinds = {"Combo": _combo, "ReplaceText": _replace_text, "RewritePath": _rewrite_path}
    kind = transform.get("type", "Combo")
    if kind not in kinds:
        raise AcceleratorError(f"the transform {kind} is not supported here")
    return kinds[kind](transform, files, values)


def _combo(transform: Any, files: Files, values: Values) -> Files:
    _check_keys(transform, _COMBO)
    files = {path: text for path, text in files.items() if _matches(path, transform.get("include", ["**"]))}
    files = {path: text for path, text in files.items() if not _matches(path, transform.get("exclude", []))}
    if "merge" in transform:
        merged: Files = {}
        for child in _enabled(transform["merge"], values):
            merged |= _transform(child, files, values)
        files = merged
    for child in _enabled(transform.get("chain", []), values):
        files = _transform(child, files, values)
    return files


def _enabled(transforms: Sequence[Any], values: Values) -> list[Any]:
    """The transforms whose condition holds."""
    return [
        item for item in transforms if _evaluate(item.get("condition", "#always"), {**values, "always": True}) is True
    ]


def _replace_text(transform: Any, files: Files, values: Values) -> Files:
    _check_keys(transform, {"type", "condition", "substitutions", "regex"})
    texts = {path: content.decode() for path, content in files.items()}
    if "regex" in transform:
        pattern, replacement = transform["regex"]["pattern"], transform["regex"]["with"]
        texts = {
            path: re.sub(pattern, lambda match: _text(_evaluate(replacement, _groups(match, values))), text)
            for path, text in texts.items()
        }
    for item in transform.get("substitutions", []):
        replacement = _text(_evaluate(item["with"], values))
        texts = {path: text.replace(item["text"], replacement) for path, text in texts.items()}
    return {path: text.encode() for path, text in texts.items()}


def _rewrite_path(transform: Any, files: Files, values: Values) -> Files:
    _check_keys(transform, {"type", "condition", "regex", "rewriteTo"})
    renamed: Files = {}
    for path, content in files.items():
        match = re.fullmatch(transform["regex"], path)
        renamed[_text(_evaluate(transform["rewriteTo"], _groups(match, values))) if match else path] = content
    return renamed


def _groups(match: "re.Match[str]", values: Values) -> dict[str, Any]:
    """The values, and the groups of a match as g0, g1 and so on."""
    return {**values, "g0": match[0], **{f"g{number}": text for number, text in enumerate(match.groups(), 1)}}


def _evaluate(expression: str, values: Values) -> Any:
    """The value of a SpEL expression: a single term unchanged, or several terms joined as text."""
    position, terms = 0, []
    while True:
        match = _TERM.match(expression, position)
        if match is None:
            raise AcceleratorError(f"the SpEL expression {expression!r} is not supported here")
        if match[2] is not None and match[2] not in values:
            raise AcceleratorError(f"{expression!r} names #{match[2]}, which is not an option")
        terms.append(match[1].replace("''", "'") if match[2] is None else values[match[2]])
        position = match.end()
        if position == len(expression):
            return terms[0] if len(terms) == 1 else "".join(map(_text, terms))
        if expression[position] != "+":
            raise AcceleratorError(f"the SpEL expression {expression!r} is not supported here")
        position += 1


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches one of the Ant patterns: `**` spans folders, `*` and `?` do not."""
    return any(re.fullmatch(_regular_expression(pattern), path) for pattern in patterns)


def _regular_expression(pattern: str) -> str:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda match: parts.get(match[0]) or re.escape(match[0]), pattern)


def _check_keys(transform: Any, known: set[str]) -> None:
    if unknown := sorted(set(transform) - known):
        raise AcceleratorError(f"{unknown[0]} of {transform.get('type', 'Combo')} is not supported here")
