"""What TAP's accelerator engine makes of accelerator.yaml: the transforms used there, as TAP's documentation has them.

Include, Exclude, Merge and Chain in a Combo; ReplaceText with texts or a regular expression; RewritePath; conditions.
Of SpEL: texts in quotes, #names, and + between them. All else is refused, so that nothing is passed over in silence.
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
    """A form that is not filled in as it asks, or a transform that is not known here."""


def options_of(accelerator: Any, given: Values) -> dict[str, Any]:
    """The values of all options: given ones, checked as the form does, and defaults."""
    options = {option["name"]: option for option in accelerator["accelerator"]["options"]}
    if unknown := sorted(set(given) - set(options)):
        raise AcceleratorError(f"there is no option {unknown[0]}")
    values = {}
    for name, option in options.items():
        value = given.get(name, option.get("defaultValue"))
        if option.get("required") and value in (None, ""):
            raise AcceleratorError(f"{name} is required")
        pattern = option.get("validationRegex")
        if pattern and value != "" and not re.search(pattern, _text(value)):
            raise AcceleratorError(f"{name} is {value!r}, which does not match {pattern}")
        values[name] = value
    return values


def render(accelerator: Any, files: Files, given: Values) -> Files:
    """The files of a new project."""
    return _combo(accelerator["engine"], files, options_of(accelerator, given))


def _transform(transform: Any, files: Files, values: Values) -> Files:
    kinds = {"Combo": _combo, "ReplaceText": _replace_text, "RewritePath": _rewrite_path}
    kind = transform.get("type", "Combo")
    if kind not in kinds:
        raise AcceleratorError(f"the transform {kind} is not known here")
    return kinds[kind](transform, files, values)


def _combo(transform: Any, files: Files, values: Values) -> Files:
    _refuse_others(transform, _COMBO)
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
    """Those whose condition holds; the others are as if they were not there."""
    return [
        item
        for item in transforms
        if _evaluate(item.get("condition", "#always"), {**values, "always": True}) is True
    ]


def _replace_text(transform: Any, files: Files, values: Values) -> Files:
    _refuse_others(transform, {"type", "condition", "substitutions", "regex"})
    texts = {path: content.decode() for path, content in files.items()}
    if "regex" in transform:
        pattern, replacement = transform["regex"]["pattern"], transform["regex"]["with"]
        texts = {
            path: re.sub(pattern, lambda match: _text(_evaluate(replacement, _groups(match, values))), text)
            for path, text in texts.items()
        }
    for item in transform.get("substitutions", []):
        taken = _text(_evaluate(item["with"], values))
        texts = {path: text.replace(item["text"], taken) for path, text in texts.items()}
    return {path: text.encode() for path, text in texts.items()}


def _rewrite_path(transform: Any, files: Files, values: Values) -> Files:
    _refuse_others(transform, {"type", "condition", "regex", "rewriteTo"})
    found: Files = {}
    for path, content in files.items():
        match = re.fullmatch(transform["regex"], path)
        found[_text(_evaluate(transform["rewriteTo"], _groups(match, values))) if match else path] = content
    return found


def _groups(match: "re.Match[str]", values: Values) -> dict[str, Any]:
    """The values, and what the groups of a regular expression matched as g0, g1 and so on."""
    return {**values, "g0": match[0], **{f"g{number}": text for number, text in enumerate(match.groups(), 1)}}


def _evaluate(expression: str, values: Values) -> Any:
    """A SpEL expression: one value as it is, or the texts of several joined."""
    position, terms = 0, []
    while True:
        match = _TERM.match(expression, position)
        if match is None:
            raise AcceleratorError(f"{expression!r} is more SpEL than is known here")
        if match[2] is not None and match[2] not in values:
            raise AcceleratorError(f"{expression!r} names #{match[2]}, which is no option")
        terms.append(match[1].replace("''", "'") if match[2] is None else values[match[2]])
        position = match.end()
        if position == len(expression):
            return terms[0] if len(terms) == 1 else "".join(map(_text, terms))
        if expression[position] != "+":
            raise AcceleratorError(f"{expression!r} is more SpEL than is known here")
        position += 1


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path fits one of Ant's patterns: `**` is any folders, `*` and `?` stay within a name."""
    return any(re.fullmatch(_regular(pattern), path) for pattern in patterns)


def _regular(pattern: str) -> str:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.sub(
        r"\*\*/|\*\*|\*|\?|[^*?]+", lambda match: parts.get(match[0]) or re.escape(match[0]), pattern
    )


def _refuse_others(transform: Any, known: set[str]) -> None:
    if unknown := sorted(set(transform) - known):
        raise AcceleratorError(f"{unknown[0]} of {transform.get('type', 'Combo')} is not known here")
