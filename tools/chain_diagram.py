"""Diagram of the supply chain for the documentation, drawn from the manifests in config/chain."""

import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import yaml

# Pixels.
_WIDTH, _ROW, _TOP = 720, 56, 60
_BOX_LEFT, _BOX_WIDTH, _BOX_HEIGHT = 290, 150, 34
_LEGEND_ROW = 24
_COLORS = {"sources": "#0b6e4f", "images": "#8a4b08", "configs": "#1f4fa3"}
_LEGEND = {
    "sources": "URL and revision of the source, later of the model",
    "images": "image digest",
    "configs": "address, or the accepted pair of image and model",
}


class _Edge(NamedTuple):
    """An output of one resource that another reads; rows are counted from 0."""

    start: int
    end: int
    kind: str


def chain_diagram(folder: Path) -> str:
    """An SVG with a box for each resource of the chain, the kinds of objects that it stamps, and what it reads."""
    resources = _read(folder / "supply-chain.yaml")["spec"]["resources"]
    rows = {resource["name"]: row for row, resource in enumerate(resources)}
    edges = [
        _Edge(rows[item["resource"]], row, kind)
        for row, resource in enumerate(resources)
        for kind in _COLORS
        for item in resource.get(kind, [])
    ]
    height = _TOP + _ROW * len(resources) + _LEGEND_ROW * len(_COLORS) + 10
    boxes = (
        line
        for row, resource in enumerate(resources)
        for line in _box(row, resource["name"], _stamped_kinds(folder, resource))
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
            'aria-labeledby="title" font-family="system-ui, sans-serif" font-size="15">',
            '<title id="title">The supply chain: its resources, what each stamps, and what each reads</title>',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *_arrowheads(),
            f'<text x="{_BOX_LEFT - 14}" y="30" text-anchor="end" fill="#555">stamps</text>',
            f'<text x="{_BOX_LEFT + _BOX_WIDTH / 2:g}" y="30" text-anchor="middle" fill="#555">resource</text>',
            f'<text x="{_BOX_LEFT + _BOX_WIDTH + 30}" y="30" fill="#555">reads</text>',
            *(_arrow(edge) for edge in edges),
            *boxes,
            *_legend(_TOP + _ROW * len(resources)),
            "</svg>\n",
        ]
    )


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _stamped_kinds(folder: Path, resource: Any) -> str:
    """The kinds of objects that the templates of a resource stamp, in the order of its options."""
    reference = resource["templateRef"]
    names = [option["name"] for option in reference.get("options", [reference]) if "name" in option]
    texts = [_read(folder / f"{name.removeprefix('image-classifier-')}-template.yaml")["spec"]["ytt"] for name in names]
    kinds = [kind for text in texts for kind in re.findall(r"^kind: (\w+)", text, flags=re.MULTILINE)]
    return ", ".join(dict.fromkeys(kinds))


def _middle(row: int) -> int:
    return _TOP + _ROW * row + _BOX_HEIGHT // 2


def _arrow(edge: _Edge) -> str:
    if edge.end == edge.start + 1:
        x = _BOX_LEFT + _BOX_WIDTH / 2
        path = f"M {x:g} {_middle(edge.start) + _BOX_HEIGHT // 2} V {_middle(edge.end) - _BOX_HEIGHT // 2 - 2}"
    else:
        # The offset depends on the length, so that arrows that share a box do not overlap.
        length = edge.end - edge.start
        start, end = _middle(edge.start) + 5, _middle(edge.end) - 9 + 4 * length
        right, bend = _BOX_LEFT + _BOX_WIDTH, 50 * length
        path = f"M {right} {start} C {right + bend} {start} {right + bend} {end} {right + 3} {end}"
    return (
        f'<path d="{path}" fill="none" stroke="{_COLORS[edge.kind]}" stroke-width="2" marker-end="url(#{edge.kind})"/>'
    )


def _arrowheads() -> list[str]:
    return [
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
        f'orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{color}"/></marker>'
        for kind, color in _COLORS.items()
    ]


def _box(row: int, name: str, stamped_kinds: str) -> list[str]:
    middle = _middle(row)
    return [
        f'<text x="{_BOX_LEFT - 14}" y="{middle + 5}" text-anchor="end" fill="#333" font-size="13">'
        f"{escape(stamped_kinds)}</text>",
        f'<rect x="{_BOX_LEFT}" y="{middle - _BOX_HEIGHT // 2}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="6" '
        'fill="#f4f6f8" stroke="#44505c"/>',
        f'<text x="{_BOX_LEFT + _BOX_WIDTH / 2:g}" y="{middle + 5}" text-anchor="middle" font-weight="600" '
        f'fill="#111">{escape(name)}</text>',
    ]


def _legend(top: int) -> list[str]:
    lines = []
    for row, (kind, color) in enumerate(_COLORS.items()):
        y = top + 10 + _LEGEND_ROW * row
        lines += [
            f'<path d="M 40 {y} H 70" stroke="{color}" stroke-width="2" marker-end="url(#{kind})"/>',
            f'<text x="82" y="{y + 5}" fill="#333">{escape(_LEGEND[kind])}</text>',
        ]
    return lines
