"""A report as one HTML file: no script, no request, pictures inside."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from string import Template
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from minidl.terminal import cell_text

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light dark; --text: #222; --ground: #fff; --line: #ccc; --soft: #666; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --ground: #161616; --line: #444; --soft: #999; }
  img { filter: brightness(.88); } img.chart { filter: invert(.91) hue-rotate(180deg); }
}
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--text);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.number { font-size: 2.2rem; font-weight: 600; margin: 0; } .soft { color: var(--soft); }
.pictures { columns: 21rem; column-gap: 1.5rem; margin: 1rem 0; }
figure { break-inside: avoid; margin: 0 0 1rem; }
figcaption { color: var(--soft); font-size: .9rem; }
img { width: 100%; height: auto; background: #fff; border-radius: 4px; }
.scroll, pre { overflow-x: auto; }
pre { font-size: .8rem; line-height: 1.35; overflow-wrap: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th { white-space: normal; vertical-align: bottom; }
@media (max-width: 30rem) { table { font-size: .85rem; } th, td { padding-right: .5rem; } }
@media print { body { max-width: none; } pre { white-space: pre-wrap; } h2 { break-after: avoid; }
  .pictures { columns: 2; } table { break-inside: avoid; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


def page(title: str, parts: Iterable[str]) -> str:
    """Return the HTML of a page; `parts` are HTML, `title` is text."""
    return _PAGE.substitute(title=html.escape(title), body="\n".join(parts))


def element(tag: str, text: Any, **attributes: str) -> str:
    """Return an element around escaped text; `class_` stands for class."""
    shown = "".join(f' {k.rstrip("_")}="{html.escape(v)}"' for k, v in attributes.items())
    return f"<{tag}{shown}>{html.escape(str(text))}</{tag}>"


def table(rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; the first row holds the titles."""
    lines: list[str] = []
    for row in rows:
        tag = "td" if lines else "th"
        lines.append("".join(element(tag, cell_text(cell)) for cell in row))
    return f'<div class="scroll"><table><tr>{"</tr><tr>".join(lines)}</tr></table></div>'


def pictures(figures: Iterable[tuple[str, Figure | None]]) -> str:
    """Return pictures side by side: (what is to be seen, figure or None)."""
    shown = []
    for text, figure in figures:
        if figure is None:
            continue
        file = io.BytesIO()
        # Equal figures give equal bytes: ids come from a fixed salt, and there is no date.
        with matplotlib.rc_context({"svg.hashsalt": "minidl", "svg.fonttype": "path"}):
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        # A data URI: the ids of several SVGs in one page would collide.
        source = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
        kind = "chart" if figure.axes[0].axison else "image"  # a chart turns dark with the page
        image = element("img", "", class_=kind, src=source, alt=text).removesuffix("</img>")
        shown.append(f"<figure>{image}{element('figcaption', text)}</figure>")
    return f'<div class="pictures">{"".join(shown)}</div>'
