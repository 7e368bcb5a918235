"""What the live benchmarks share when they tell: percentiles, tables, JSON, plots and a page that holds it all."""

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from local_dev.bench import describe_machine
from local_dev.live_server import extra

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: bold }
th, td { border: 1px solid #ccc; padding: .2rem .6rem; text-align: right } td:first-child { text-align: left }
img { max-width: 100% } pre { white-space: pre-wrap; background: #f4f4f4; padding: 1rem; font-size: 13px }
"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table, for the terminal and for the page."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank).

    Without interpolation, so that an answer that never came may count as infinite. NaN without values.
    """
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the line through the points by least squares. NaN where there is no line."""
    if len(set(x)) < 2:
        return math.nan
    across, up = np.asarray(x) - np.mean(x), np.asarray(y) - np.mean(y)
    return float((across * up).sum() / np.square(across).sum())


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if math.isfinite(seconds) else "never" if seconds > 0 else ""


def header(settings: Mapping[str, Any]) -> dict[str, Any]:
    """When, with what and on what it was measured."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "machine": describe_machine() | {"cores": os.cpu_count(), "load_before": _load()},
    }


def _load() -> float | None:
    """Processes that wanted to run over the last minute: above the number of cores it was a noisy machine."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def new_figure(panels: int) -> tuple[Any, list[Any]]:
    """A figure with panels side by side.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    figure = extra("matplotlib.figure").Figure(figsize=(6.4 * panels, 4.4), layout="constrained")
    axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def write_report(
    out: Path,
    name: str,
    title: str,
    about: str,
    result: Mapping[str, Any],
    sheets: Sequence[Sheet],
    figure: Any,
    console: Console,
) -> Path:
    """Print the tables; write `name`.json, .png and .html; return the page.

    Args:
        about: what the figures mean, shown on the page as it is.
        result: everything that was measured. What is not finite becomes null.
    """
    for sheet in sheets:
        table = Table(title=sheet.title, title_justify="left")
        for number, column in enumerate(sheet.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(result), ensure_ascii=False, indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(text, encoding="utf-8")
    picture = out / f"{name}.png"
    figure.savefig(picture, dpi=110)
    page = out / f"{name}.html"
    page.write_text(_page(title, about, result, sheets, picture.read_bytes()), encoding="utf-8")
    console.print(f"Written to {page}, with {name}.json and {name}.png beside it", markup=False)
    return page


def _page(title: str, about: str, result: Mapping[str, Any], sheets: Sequence[Sheet], picture: bytes) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    tables = "\n".join(
        f"<table><caption>{escape(sheet.title)}</caption>{row('th', sheet.columns)}"
        f"{''.join(row('td', cells) for cells in sheet.rows)}</table>"
        for sheet in sheets
    )
    conditions = {key: result[key] for key in ("made", "machine", "settings") if key in result}
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>
<h1>{escape(title)}</h1>
{tables}
<img alt="plot" src="data:image/png;base64,{base64.b64encode(picture).decode()}">
<h2>What was measured</h2>
<pre>{escape(about)}</pre>
<h2>How</h2>
<pre>{escape(json.dumps(_finite(conditions), ensure_ascii=False, indent=1))}</pre>
</html>
"""


def _finite(value: Any) -> Any:
    """The same without infinities, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
