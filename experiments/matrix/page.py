"""Parts of a page of results: tables in Markdown, charts as PNG."""

import io
from typing import Any


def grid(rows: list[list[str]]) -> str:
    """A table in Markdown, its first row the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def png(figure: Any) -> bytes:
    """A figure of pyplot as a PNG file; the figure is closed."""
    from matplotlib import pyplot

    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    pyplot.close(figure)
    return image.getvalue()
