"""The picture of the supply chain in the documents, drawn from config/chain; tests/test_docs.py compares it."""

import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import yaml

CHAIN = Path(__file__).parent.parent / "config" / "chain"
WIDTH, ROW, TOP = 720, 56, 60
BOX_LEFT, BOX_WIDTH, BOX_HEIGHT = 290, 150, 34
COLOURS = {"sources": "#0b6e4f", "images": "#8a4b08", "configs": "#1f4fa3"}
SAID = {
    "sources": "address and revision: of the source, then of the model",
    "images": "an image, by its digest",
    "configs": "an address, or the accepted pair of image and model",
}


class Edge(NamedTuple):
    """That one resource reads what another passes on; rows from 0."""

    start: int
    end: int
    what: str


def chain_diagram() -> str:
    """An SVG: a box for each resource in the chain's order, what it stamps beside it, and what it reads."""
    resources = _read("supply-chain.yaml")["spec"]["resources"]
    rows = {resource["name"]: row for row, resource in enumerate(resources)}
    edges = [
        Edge(rows[item["resource"]], row, what)
        for row, resource in enumerate(resources)
        for what in COLOURS
        for item in resource.get(what, [])
    ]
    height = TOP + ROW * len(resources) + 24 * len(COLOURS) + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'aria-labelledby="title" font-family="system-ui, sans-serif" font-size="15">',
            '<title id="title">The supply chain: its resources, what each stamps, and what each reads</title>',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *_arrowheads(),
            f'<text x="{BOX_LEFT - 14}" y="30" text-anchor="end" fill="#555">stamps</text>',
            f'<text x="{BOX_LEFT + BOX_WIDTH / 2:g}" y="30" text-anchor="middle" fill="#555">resource</text>',
            f'<text x="{BOX_LEFT + BOX_WIDTH + 30}" y="30" fill="#555">reads</text>',
            *(_arrow(edge) for edge in edges),
            *(line for row, resource in enumerate(resources) for line in _box(row, resource)),
            *_legend(TOP + ROW * len(resources)),
            "</svg>\n",
        ]
    )


def _read(name: str) -> Any:
    return yaml.safe_load((CHAIN / name).read_text(encoding="utf-8"))


def _stamped(resource: Any) -> str:
    """The kinds of object that the resource's templates make, in the order of its options."""
    reference = resource["templateRef"]
    names = [option["name"] for option in reference.get("options", [reference]) if "name" in option]
    texts = [
        _read(name.removeprefix("image-classifier-") + "-template.yaml")["spec"]["ytt"] for name in names
    ]
    kinds = [kind for text in texts for kind in re.findall(r"^kind: (\w+)", text, flags=re.MULTILINE)]
    return ", ".join(dict.fromkeys(kinds))


def _middle(row: int) -> int:
    return TOP + ROW * row + BOX_HEIGHT // 2


def _arrow(edge: Edge) -> str:
    if edge.end == edge.start + 1:
        x = BOX_LEFT + BOX_WIDTH / 2
        path = f"M {x:g} {_middle(edge.start) + BOX_HEIGHT // 2} V {_middle(edge.end) - BOX_HEIGHT // 2 - 2}"
    else:
        # Apart from each other where several begin or end at one box.
        start, end = _middle(edge.start) + 5, _middle(edge.end) - 9 + 4 * (edge.end - edge.start)
        right, bend = BOX_LEFT + BOX_WIDTH, 50 * (edge.end - edge.start)
        path = f"M {right} {start} C {right + bend} {start} {right + bend} {end} {right + 3} {end}"
    colour = COLOURS[edge.what]
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" marker-end="url(#{edge.what})"/>'


def _arrowheads() -> list[str]:
    return [
        f'<marker id="{what}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
        f'orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{colour}"/></marker>'
        for what, colour in COLOURS.items()
    ]


def _box(row: int, resource: Any) -> list[str]:
    middle = _middle(row)
    return [
        f'<text x="{BOX_LEFT - 14}" y="{middle + 5}" text-anchor="end" fill="#333" font-size="13">'
        f"{escape(_stamped(resource))}</text>",
        f'<rect x="{BOX_LEFT}" y="{middle - BOX_HEIGHT // 2}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        'fill="#f4f6f8" stroke="#44505c"/>',
        f'<text x="{BOX_LEFT + BOX_WIDTH / 2:g}" y="{middle + 5}" text-anchor="middle" font-weight="600" '
        f'fill="#111">{escape(resource["name"])}</text>',
    ]


def _legend(top: int) -> list[str]:
    lines = []
    for number, (what, colour) in enumerate(COLOURS.items()):
        y = top + 10 + 24 * number
        lines += [
            f'<path d="M 40 {y} H 70" stroke="{colour}" stroke-width="2" marker-end="url(#{what})"/>',
            f'<text x="82" y="{y + 5}" fill="#333">{escape(SAID[what])}</text>',
        ]
    return lines
