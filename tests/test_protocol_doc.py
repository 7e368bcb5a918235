"""docs/protocol.md says what the messages are, in both languages; docs/settings.md is up to date."""

import json
import re
from pathlib import Path

import pytest

from local_dev import docs
from stt_core.messages import (
    CLIENT_MESSAGES,
    CLOSE_CODES,
    RETRYABLE,
    SERVER_MESSAGES,
    Final,
    Message,
    MessageError,
    parse_client_message,
    parse_server_message,
)

FOLDER = docs.FOLDER
PROTOCOLS = [FOLDER / "protocol.md", FOLDER / "protocol.ko.md"]
ENGLISH, KOREAN = (path.read_text(encoding="utf-8") for path in PROTOCOLS)


def sent(text: str, arrow: str) -> list[str]:
    """The JSON messages of the conversations that go in one direction."""
    return re.findall(rf"^{arrow} (\{{.*\}})$", text, re.MULTILINE)


def row(text: str, *cells: str) -> str:
    """The last table row that begins with these cells."""
    start = "| " + " | ".join(cells) + " |"
    return [line for line in text.splitlines() if line.startswith(start)][-1]


def kind(message: type[Message]) -> str:
    return str(message.model_fields["type"].default)


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.name)
def test_every_example_is_a_message_of_the_protocol(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    client, server = sent(text, "→"), sent(text, "←")

    assert len(client) >= 8 and len(server) >= 15
    wrong = re.findall(r"^→ (\{.*\})\n← \{\"type\":\"error\".*\"message\":\"(.*?)\"", text, re.MULTILINE)
    assert 2 == len(wrong)
    for example, sentence in wrong:
        with pytest.raises(MessageError, match=re.escape(sentence)):
            parse_client_message(example)
    for example in [example for example in client if example not in dict(wrong)]:
        assert json.loads(example).items() <= parse_client_message(example).model_dump().items()
    for example in server:
        assert json.loads(example) == json.loads(parse_server_message(example).to_json())


@pytest.mark.parametrize("name", ["README.md", "README.ko.md", "docs/phrases.md", "docs/phrases.ko.md"])
def test_the_examples_elsewhere_are_messages_too(name: str) -> None:
    text = (FOLDER.parent / name).read_text(encoding="utf-8")
    client, server = sent(text, "→"), sent(text, "←")

    assert server
    for example in client:
        assert json.loads(example).items() <= parse_client_message(example).model_dump().items()
    for example in server:
        assert json.loads(example) == json.loads(parse_server_message(example).to_json())


def test_both_languages_have_the_same_examples_and_tables() -> None:
    blocks = [re.findall(r"^[→←].*", text, re.MULTILINE) for text in (ENGLISH, KOREAN)]
    assert [line for line in blocks[0] if "{" in line] == [line for line in blocks[1] if "{" in line]
    assert re.findall(r"^#+", ENGLISH, re.MULTILINE) == re.findall(r"^#+", KOREAN, re.MULTILINE)
    assert re.findall(r"^\| (`[^|]*?`|\d+) \|", ENGLISH, re.MULTILINE) == re.findall(
        r"^\| (`[^|]*?`|\d+) \|", KOREAN, re.MULTILINE
    )


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.name)
@pytest.mark.parametrize("message", [*CLIENT_MESSAGES, *SERVER_MESSAGES], ids=kind)
def test_every_message_has_its_row_with_all_its_fields(message: type[Message], path: Path) -> None:
    line = row(path.read_text(encoding="utf-8"), f"`{kind(message)}`")
    named = re.findall(r"`(\w+)`", line.split("|")[2])

    assert {*message.model_fields} - {"type"} <= {*named}


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.name)
@pytest.mark.parametrize("name", sorted({*Final.model_fields} - {"type", "start_ms", "end_ms"}))
def test_every_field_of_final_is_explained(name: str, path: Path) -> None:
    assert row(path.read_text(encoding="utf-8"), f"`{name}`")


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.name)
@pytest.mark.parametrize("code", CLOSE_CODES)
def test_every_error_code_is_explained_with_its_close_code(code: str, path: Path) -> None:
    last = row(path.read_text(encoding="utf-8"), str(CLOSE_CODES[code]), f"`{code}`").split("|")[-2].strip()

    assert (code in RETRYABLE) == (last not in ("no", "아니요"))


@pytest.mark.parametrize("name", docs.PAGES)
def test_what_is_made_from_the_code_is_up_to_date(name: str) -> None:
    """Write it again with `python -m local_dev.docs`."""
    assert docs.PAGES[name]() == (FOLDER / name).read_text(encoding="utf-8")
