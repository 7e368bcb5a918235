"""Forms: what is in them, in any chunking, and everything that may be wrong with one."""

import gc
import weakref

import pytest
from conftest import in_chunks
from hypothesis import given
from hypothesis import strategies as st

from stt_core.forms import MAX_FIELD_BYTES, MAX_FIELDS, MAX_OVERHEAD_BYTES, Form, FormError, FormReader, FormTooLarge

BOUNDARY = "frontier"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
MAX_FILE_BYTES = 300_000


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def read(body: bytes, sizes: tuple[int, ...] = (65_536,), content_type: str = CONTENT_TYPE) -> Form:
    reader = FormReader(content_type, max_file_bytes=MAX_FILE_BYTES)
    for chunk in in_chunks(body, sizes):
        reader.feed(chunk)
    return reader.finish()


@given(
    text=st.text(max_size=50),
    data=st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 40), min_size=1).map(tuple),
)
def test_chunking_does_not_matter(text, data, sizes):
    text, data = text.replace(BOUNDARY, ""), data.replace(BOUNDARY.encode(), b"")

    form = read(part("prompt", text.encode()) + part("file", data, "a.wav") + END, sizes)

    assert form.file is not None
    assert ({"prompt": [text]}, data) == (form.fields, form.file.read())


def test_fields_of_a_name_are_kept_in_order_with_and_without_brackets():
    form = read(part("keywords[]", b"a") + part("keywords", "가".encode()) + part("keywords[]", b"b") + END)

    assert ({"keywords": ["a", "가", "b"]}, None) == (form.fields, form.file)


def test_a_file_that_nobody_asked_for_is_passed_over():
    form = read(part("picture", b"x" * 200_000, "a.png") + part("file", b"audio", "") + END)

    assert form.file is not None
    assert ({}, b"audio") == (form.fields, form.file.read())


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        ("application/json", b"{}", "multipart/form-data"),
        ("multipart/form-data", END, "boundary"),
        (f"multipart/form-data; boundary={'b' * 1000}", END, "boundary"),
        (CONTENT_TYPE, b"nothing like a form", "not the multipart/form-data"),
        (CONTENT_TYPE, b"", "in the middle"),
        (CONTENT_TYPE, part("file", b"audio", "a.wav"), "in the middle"),
        (CONTENT_TYPE, f"--{BOUNDARY}\r\nX: y\r\n\r\ndata\r\n".encode() + END, "Content-Disposition"),
        (CONTENT_TYPE, f"--{BOUNDARY}\r\n".encode() + b"A" * 100_000, "not the multipart/form-data"),
        (CONTENT_TYPE, part("prompt", b"\xff\xfe") + END, "UTF-8"),
        (CONTENT_TYPE, part("file", b"a", "a") + part("file", b"b", "b") + END, "one file"),
        (CONTENT_TYPE, part("file", b"x" * (MAX_FIELD_BYTES + 1)) + END, "filename"),
    ],
)
def test_what_is_no_form_is_refused_in_a_sentence(content_type, body, sentence):
    with pytest.raises(FormError, match=sentence):
        read(body, content_type=content_type)


def test_a_file_of_the_largest_size_is_taken_and_one_byte_more_is_not():
    form = read(part("file", b"x" * MAX_FILE_BYTES, "a") + END)

    assert form.file is not None
    assert MAX_FILE_BYTES == len(form.file.read())
    with pytest.raises(FormTooLarge):
        read(part("file", b"x" * (MAX_FILE_BYTES + 1), "a") + END)


def test_a_body_that_is_large_beside_its_file_is_refused():
    with pytest.raises(FormTooLarge):
        read(part("picture", b"x" * (MAX_FILE_BYTES + MAX_OVERHEAD_BYTES), "a.png") + END)


def test_a_hundred_thousand_parts_are_refused_at_the_first_that_is_too_many():
    body = part("a", b"") * 100_000 + END
    reader = FormReader(CONTENT_TYPE, max_file_bytes=25_000_000)

    with pytest.raises(FormError, match=f"at most {MAX_FIELDS} fields"):
        reader.feed(body)


def test_a_form_leaves_memory_with_its_last_user():
    reader = FormReader(CONTENT_TYPE, max_file_bytes=MAX_FILE_BYTES)
    reader.feed(part("file", b"audio", "a.wav") + END)
    form = weakref.ref(reader.finish())

    gc.disable()
    try:
        del reader
        assert form() is None
    finally:
        gc.enable()
