"""The page as a file: whole, escaped, and in need of nothing beside it; and the command that writes it."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page_parser import Page
from recorded import Fake, fresh, record_sweep

from stts_lightning.cli import main
from stts_lightning.config import Config, TrackingConfig
from stts_lightning.report.page.experiments import EXPERIMENTS
from stts_lightning.report.page.main import write_page

PNG = b"\x89PNG not really"


def test_nothing_outside_the_page_is_referenced(page: Page, text: str) -> None:
    assert page.addresses and all(re.match(r"#|data:(image|video)/", address) for address in page.addresses)
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<link", text)
    assert set(page.sections) - {"", "others"} == {experiment.name for experiment in EXPERIMENTS}


def test_drawings_are_well_formed_and_take_the_pages_colour(text: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 5  # strength, training, inference, degradation, layers
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("viewBox") and "currentColor" in drawing and root[0].tag == "title"
    words = [unescape("".join(ElementTree.fromstring(drawing).itertext())) for drawing in drawings]
    assert "2.50" in words[1] and "ours, 256 frames" in words[1] and "ours" not in words[2]


def test_text_from_the_database_is_escaped(tmp_path: Path) -> None:
    tracking = fresh(tmp_path)
    record_sweep(tracking, tmp_path / "a<b>&c", "methods", [Fake("stts", variant="c<d>")], pictures={"sheet.png": PNG})
    text = write_page(Config(tracking=tracking), tmp_path / "report.html").read_text()
    assert (
        "a&lt;b&gt;&amp;c" in text and "a<b>" not in text and "c&lt;d&gt;" in text and "c<d>" not in text and Page(text)
    )


def test_paired_differences_are_asked_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    tracking = fresh(tmp_path)
    runs = [Fake("stts", seed=0), Fake("stts", seed=1), Fake("random", seed=1), Fake("random", 30), Fake("none", 0)]
    record_sweep(tracking, tmp_path / "s", "methods", runs)
    asked = []

    def compare(one: list[Path], other: list[Path]) -> str:
        asked.append([[len(path.read_text().splitlines()) for path in paths] for paths in (one, other)])
        return "no difference"

    text = write_page(Config(tracking=tracking), tmp_path / "report.html", compare).read_text()
    assert asked == [[[40], [40]]]
    assert "STTS 50 % against Random 50 %: no difference" in Page(text).sections["methods"]


def test_the_command_writes_the_page_and_refuses_a_database_that_is_not_there(
    recorded: TrackingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert main(["report", "--out", str(out), f"tracking.uri={recorded.uri}"]) == 0 and out.is_file()
    assert main(["report", "--out", str(out), f"tracking.uri=sqlite:///{tmp_path}/none.db"]) == 2
    assert "no such database" in capsys.readouterr().err and not (tmp_path / "none.db").exists()
