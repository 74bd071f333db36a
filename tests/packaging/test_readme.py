"""The pages are finished, and the commands that they name exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def test_no_placeholders_are_left():
    for page in (*PAGES, "BUILD_NOTES.md"):
        text = (ROOT / page).read_text()
        assert not re.findall(r"^[A-Z]+_TABLE$|\bTODO\b|\bPLAN_FIGURES\b", text, re.M), page


COMMAND = r"python -m ((?:launch|experiments)\.[\w.]+)([^\n`#]*)"


def commands() -> list[tuple[str, str, list[str]]]:
    """Page, module and flags of every command that a page names."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for module, rest in re.findall(
            r"python -m ((?:launch|experiments)\.[\w.]+)([^\n`#]*)", text
        ):
            # Flags of the program, and fields of a config behind a dot.
            found.append((page, module, re.findall(r"--(\w+)", rest)))
        for module, flag in re.findall(r"`(launch\.\w+) --(\w+)", text):
            found.append((page, module, [flag]))
    return found


def flags_of(module: str) -> set[str]:
    """Names of the flags that an entry point defines, or a module of `launch` that it imports."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    for names in re.findall(r"^from launch import ([\w, ]+)$", text, re.M):
        for name in names.split(", "):
            text += (ROOT / "launch" / f"{name}.py").read_text()
            if name == "training_flags":
                text += (ROOT / "launch" / "import_flag.py").read_text()
    return set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text))


def test_every_command_has_the_flags_that_a_page_gives_it():
    named = commands()
    assert len(named) > 20
    for page, module, flags in named:
        unknown = set(flags) - flags_of(module)
        assert not unknown, (page, module, unknown)
