"""A form with one file, read from a stream of bytes within bounds. No sockets inside: chunks in, a form out.

Web frameworks read a form whole before anybody may look at it, and spill files to disk. Here the first byte too many
ends it, a part that nobody asked for is never stored, and audio touches no disk.
"""

from dataclasses import dataclass, field
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stt_core.errors import SttError

MAX_FIELDS = 64  # parts of a form, the file among them
MAX_FIELD_BYTES = 16 * 1024
MAX_OVERHEAD_BYTES = 128 * 1024  # of the whole body: fields, headers and boundaries


class FormError(SttError):
    """The body is not a form that can be read."""


class FormTooLarge(FormError):
    """The body is larger than is taken."""


@dataclass(slots=True, weakref_slot=True)
class Form:
    """What a form held."""

    fields: dict[str, list[str]] = field(default_factory=dict)  # `name[]` counts as `name`
    file: BytesIO | None = None


class FormReader:
    """Reads a `multipart/form-data` body, in any chunking.

    Args:
        content_type: the header of the body.
        file_field: the name of the part that is the file; other files are passed over.
        max_file_bytes: of that file.

    Raises:
        FormError: the header is not that of such a form.
    """

    def __init__(self, content_type: str, *, file_field: str = "file", max_file_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise FormError("Expected a body of the type multipart/form-data with its boundary.")
        self._parts = parts = _Parts(file_field, max_file_bytes)
        self._bytes_left = max_file_bytes + MAX_OVERHEAD_BYTES
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": parts.begin,
                    "on_header_begin": parts.begin_header,
                    "on_header_field": parts.add_header_name,
                    "on_header_value": parts.add_header_value,
                    "on_header_end": parts.end_header,
                    "on_headers_finished": parts.end_headers,
                    "on_part_data": parts.add_data,
                    "on_part_end": parts.end,
                    "on_end": parts.finish,
                },
            )
        except FormParserError:
            raise FormError("Expected a body of the type multipart/form-data with its boundary.") from None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            FormError: this is no form, or one with too many or too large parts.
            FormTooLarge: the file, or the body, is larger than it may be.
        """
        self._bytes_left -= len(chunk)
        if self._bytes_left < 0:
            raise self.too_large()
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise FormError("The body is not the multipart/form-data that its header announces.") from None

    def finish(self) -> Form:
        """The form, when all of its body was fed.

        Raises:
            FormError: the body ended too early.
        """
        if not self._parts.finished:
            raise FormError("The body ended in the middle of the form.")
        return self._parts.form

    def too_large(self) -> FormTooLarge:
        """What a body that is larger than it may be is answered with."""
        return self._parts.too_large()


class _Parts:
    """Puts together what the parser finds.

    It knows neither parser nor reader: in a circle of references, a large file would stay in memory for long.
    """

    def __init__(self, file_field: str, max_file_bytes: int) -> None:
        self.form = Form()
        self.finished = False
        self._file_field = file_field
        self._max_file_bytes = max_file_bytes
        self._count = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._name = ""
        self._value: BytesIO | bytearray | None = None  # what the part's data goes into

    def too_large(self) -> FormTooLarge:
        return FormTooLarge(f"The file is larger than {self._max_file_bytes / 2**20:g} MiB: compress or split it.")

    def begin(self) -> None:
        self._count += 1
        if self._count > MAX_FIELDS:
            raise FormError(f"Expected at most {MAX_FIELDS} fields in the form.")
        self._disposition = b""

    def begin_header(self) -> None:
        self._header_name.clear()
        self._header_value.clear()

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)

    def end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise FormError("Expected a name in the Content-Disposition of every part of the form.")
        self._name = options[b"name"].decode(errors="replace").removesuffix("[]")
        if b"filename" not in options:
            self._value = bytearray()
        elif self._name != self._file_field:
            self._value = None
        elif self.form.file is None:
            self._value = self.form.file = BytesIO()
        else:
            raise FormError(f"Expected one {self._file_field} in the form, not several.")

    def add_data(self, data: bytes, start: int, end: int) -> None:
        match self._value:
            case BytesIO() as file:
                if file.tell() + end - start > self._max_file_bytes:
                    raise self.too_large()
                file.write(memoryview(data)[start:end])
            case bytearray() as text:
                if len(text) + end - start > MAX_FIELD_BYTES:
                    raise FormError(f"{self._name:.40}: expected at most {MAX_FIELD_BYTES} bytes, or a filename.")
                text += data[start:end]

    def end(self) -> None:
        if isinstance(self._value, BytesIO):
            self._value.seek(0)
        elif self._value is not None:
            self.form.fields.setdefault(self._name, []).append(_text(self._value))
        self._value = None

    def finish(self) -> None:
        self.finished = True


def _text(data: bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormError("Expected UTF-8 in the form's fields.") from None
