"""The chart of the benchmarks shows what benchmarks/README.md records."""

import importlib.util
import xml.etree.ElementTree
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load():
    specification = importlib.util.spec_from_file_location("chart", FOLDER / "chart.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_chart_is_up_to_date():
    chart = load()
    drawn = chart.draw(chart.recorded((FOLDER / "README.md").read_text(encoding="utf-8")))
    assert drawn == (FOLDER / "chart.svg").read_text(encoding="utf-8"), "python benchmarks/chart.py"


def test_no_bar_and_no_figure_leaves_the_picture():
    root = xml.etree.ElementTree.parse(FOLDER / "chart.svg").getroot()
    width = int(root.get("width"))
    assert width <= 400  # what a phone shows without scaling
    for element in root.iter():
        length = float(element.get("width", 0)) if element is not root else 0
        text = len(element.text or "") * 0.56 * float(element.get("font-size", 0))
        assert float(element.get("x", 0)) + length + text <= width, element.text
