"""A page taken apart, with plain means."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags that must close, tables as text by caption, every address, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tables: list[tuple[str, str, list[list[str]]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [str(values[name]) for name in ("src", "href", "action", "data") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "h2":
            self.section = str(values["id"])
            self.sections[self.section] = ""
        elif tag == "table":
            self.tables.append((self.section, "", []))
        elif tag == "tr":
            self.tables[-1][2].append([])
        elif tag in ("td", "th"):
            self.tables[-1][2][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.sections[self.section] += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][2][-1][-1] += data
        elif self.open and self.open[-1] == "caption":
            section, _, rows = self.tables[-1]
            self.tables[-1] = (section, data, rows)

    def rows(self, section: str, caption: str) -> list[dict[str, str]]:
        """A table's rows by column; the columns on our side have no doubles on the paper's."""
        body = next(rows for s, c, rows in self.tables if s == section and caption in c)
        return [dict(zip(body[0], row, strict=True)) for row in body[1:]]
