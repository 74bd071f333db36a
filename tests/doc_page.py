"""Pages of docs/, whose code is held to what it says by tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, text) of every block of code on a page that names its language."""
    page = (ROOT / "docs" / name).read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)
