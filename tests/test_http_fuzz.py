"""Schemathesis against every HTTP route: whatever its schema allows is served, whatever it forbids is refused."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection
from schemathesis.transport.serialization import Binary
from servers import TEST_AUDIO, wait_until

from stt_core.app import create_app
from stt_core.fakes import EnergyVad, FakeEngine
from stt_core.settings import Settings

TOKEN = "open-sesame"
PATHS = {
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/models",
    "/v1/models/{model}",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
}

# A schema cannot say what audio is, so only audio is sent; files that are none are in `test_media.py`.
schemathesis.openapi.format("binary", st.just(Binary((TEST_AUDIO / "mom.wav").read_bytes())))


def schema_of(settings: Settings) -> Any:
    """What a ready app says of itself. Schemathesis runs it in this process."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(settings, FakeEngine(), vad=EnergyVad()))
    ready = schema["/readyz"]["GET"].Case()
    wait_until(lambda: ready.call().status_code == 200, "the model to be loaded")
    return schema


OPEN = schema_of(Settings())
GUARDED = schema_of(Settings.from_environment({}, token=TOKEN))
few = hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def checked(case: Any, **options: Any) -> None:
    """All of Schemathesis' checks."""
    # A form knows no types: a number or an object in the place of a text is a text. What a form may not hold is
    # in `test_http_api.py`.
    is_form = case.media_type == "multipart/form-data"
    case.call_and_validate(excluded_checks=[negative_data_rejection] if is_form else [], **options)


def test_every_route_is_in_the_schema():
    assert PATHS == PATHS & set(OPEN.raw_schema["paths"])


@OPEN.parametrize()
@few
def test_an_open_server_keeps_to_its_schema(case):
    checked(case)


@GUARDED.parametrize()
@few
def test_a_guarded_server_keeps_to_its_schema(case):
    checked(case, headers={"Authorization": f"Bearer {TOKEN}"})
