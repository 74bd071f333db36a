"""The README is finished: nothing in it waits to be filled in."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_placeholders_are_left():
    for page in (
        "README.md",
        "BUILD_NOTES.md",
        "docs/bundle_format.md",
        "docs/bring_your_own_network.md",
    ):
        text = (ROOT / page).read_text()
        assert not re.findall(r"^[A-Z]+_TABLE$|\bTODO\b|\bPLAN_FIGURES\b", text, re.M), page
