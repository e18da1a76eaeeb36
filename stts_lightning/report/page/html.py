"""HTML from text and grids. Everything that comes in as text is escaped here and nowhere else."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

from stts_lightning.report.page.tables import Grid

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --warn: #b00020; }
@media (prefers-color-scheme: dark) { :root { --warn: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.7rem; } h2 { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 1rem; }
nav a { display: inline-block; margin-right: 1rem; }
.scroll { margin: 1rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { font-weight: 600; padding: .3rem 0; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
.ours { background: var(--soft); } th.first, td.first { border-left: 2px solid var(--line); }
.warning { border-left: 4px solid var(--warn); color: var(--warn); font-weight: 600; padding-left: .8rem; }
figure { margin: 1rem 0; } figure svg { height: auto; max-width: 100%; width: 100%; }
figure img, figure video { height: auto; max-width: 100%; } figcaption { font-size: .85rem; }
figure.narrow svg { max-width: 34rem; }
details { margin: .4rem 0; } pre { background: var(--soft); font-size: .75rem; overflow-x: auto; padding: .6rem; }
code { background: var(--soft); padding: 0 .2em; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole document."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, anchor: str) -> str:
    return f'<h2 id="{escape(anchor)}">{escape(text)}</h2>'


def contents(links: Mapping[str, str]) -> str:
    """Links inside the page: title by anchor."""
    return "<nav>" + "".join(f'<a href="#{escape(a)}">{escape(t)}</a>' for a, t in links.items()) + "</nav>"


def paragraph(text: str, warning: bool = False) -> str:
    kind = ' class="warning"' if warning else ""
    return f"<p{kind}>{_inline(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_inline(line)}</li>" for line in lines) + "</ul>" if lines else ""


def table(grid: Grid) -> str:
    """A table that scrolls sideways inside its own box."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{_mark(grid, i)}>{escape(text)}</{tag}>" for i, text in enumerate(row))

    head = f"<thead><tr>{cells('th', grid.head)}</tr></thead>"
    rows = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in grid.rows)
    inside = f"<caption>{escape(grid.caption)}</caption>{head}<tbody>\n{rows}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def fold(summary: str, inside: Sequence[str]) -> str:
    """Closed until it is clicked; works without scripts."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(inside)}</details>"


def preformatted(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def drawing(svg: str, caption: str = "", narrow: bool = False) -> str:
    kind = ' class="narrow"' if narrow else ""
    return f"<figure{kind}>{svg}<figcaption>{_inline(caption)}</figcaption></figure>"


def picture(body: bytes, caption: str) -> str:
    """A PNG inside the page."""
    source = f"data:image/png;base64,{b64encode(body).decode()}"
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{_inline(caption)}</figcaption></figure>'


def film(body: bytes, caption: str) -> str:
    """An mp4 inside the page."""
    source = f"data:video/mp4;base64,{b64encode(body).decode()}"
    return f'<figure><video controls src="{source}"></video><figcaption>{_inline(caption)}</figcaption></figure>'


def _mark(grid: Grid, column: int) -> str:
    if grid.split is None or column < grid.split:
        return ""
    return f' class="ours{" first" if column == grid.split else ""}"'


def _inline(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
