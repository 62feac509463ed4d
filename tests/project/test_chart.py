"""The charts of the benchmarks show what benchmarks/README.md records."""

import importlib.util
import xml.etree.ElementTree
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load():
    specification = importlib.util.spec_from_file_location("chart", FOLDER / "chart.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


CHARTS = pytest.mark.parametrize("name", ["chart.svg", "gpu.svg"])


@CHARTS
def test_charts_are_up_to_date(name):
    drawn = load().charts()[name]
    assert drawn == (FOLDER / name).read_text(encoding="utf-8"), "python benchmarks/chart.py"


@CHARTS
def test_no_bar_and_no_figure_leaves_the_picture(name):
    root = xml.etree.ElementTree.parse(FOLDER / name).getroot()
    width = int(root.get("width"))
    assert width <= 400  # what a phone shows without scaling
    for element in root.iter():
        length = float(element.get("width", 0)) if element is not root else 0
        text = len(element.text or "") * 0.56 * float(element.get("font-size", 0))
        assert float(element.get("x", 0)) + length + text <= width, element.text
