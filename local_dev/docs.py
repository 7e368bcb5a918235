"""The documents that are made from the code: `python -m local_dev.docs` writes them, a test compares them.

docs/settings.md lists the settings, the limits and the metrics, docs/asyncapi.json the messages of the WebSocket.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from local_dev import edge
from stt_core import __version__, messages
from stt_core.diagnosis import CODES
from stt_core.limits import TOLD, Limits
from stt_core.metrics import Metrics, describe
from stt_core.settings import ENVIRONMENT_PREFIX, Settings

FOLDER = Path(__file__).parent.parent / "docs"

INTRODUCTION = """\
<!-- Written by `python -m local_dev.docs`. -->
# Settings, limits, metrics

Every setting is an option of `python -m local_dev` and an environment variable, which `modal_app.py` reads as well. An
option wins over its variable; an empty variable counts as unset.
"""
LIMITS = """\
## Limits

Limits are settings, too. Those with a tick are told to JSON clients in `ready`. What happens at a limit stands in its
description; the close codes are explained in [protocol.md](protocol.md).
"""
TRANSPORT = """\
## The transport

`python -m local_dev` watches each connection before the app hears of it (`local_dev/edge.py`). These are constants: no
real client comes near them. On Modal its own gateway stands in this place.
"""
METRICS = """\
## Metrics

`GET /metrics`, for Prometheus. Label sets are closed: whatever clients send, the number of time series stays the same.
"""


def settings_page() -> str:
    """docs/settings.md."""
    own = [name for name in Settings.model_fields if name not in Limits.model_fields]
    return "\n".join(
        [
            INTRODUCTION,
            "| Option | Variable | Default | Meaning |\n|---|---|---|---|",
            *map(_row, own),
            "",
            LIMITS,
            "| Option | Variable | Default | In `ready` | Meaning |\n|---|---|---|---|---|",
            *(_row(name, "✓" if name in TOLD else "") for name in Limits.model_fields),
            "",
            TRANSPORT,
            "| Name | Value |\n|---|---|",
            *(f"| `{field.name}` | {_number(field.default)} |" for field in fields(edge.EdgeLimits)),
            "",
            METRICS,
            describe(Metrics(warning_codes=CODES)),
        ]
    )


def _row(name: str, *more: str) -> str:
    field = Settings.model_fields[name]
    cells = [f"`--{name.replace('_', '-')}`", f"`{ENVIRONMENT_PREFIX}{name.upper()}`", _default(field.default), *more]
    return f"| {' | '.join(cells)} | {field.description} |"


def _default(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{_number(value)}`"


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def asyncapi_page() -> str:
    """docs/asyncapi.json."""
    return json.dumps(messages.asyncapi(__version__), indent=1, ensure_ascii=False) + "\n"


PAGES = {"settings.md": settings_page, "asyncapi.json": asyncapi_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8", newline="\n")
