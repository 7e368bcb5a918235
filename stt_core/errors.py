"""One exception tree. A message says what was expected, what came and what to do; it is shown as it is."""


class SttError(Exception):
    """Something went wrong that a person can act on. `str(error)` is a sentence for that person."""


class SettingsError(SttError):
    """A setting has a value that the server cannot work with."""


class AudioError(SttError):
    """Audio is not what its sender declared, or cannot be read."""


class ModelError(SttError):
    """The Whisper model cannot be found, verified or loaded."""


class ProtocolError(SttError):
    """A client broke the wire contract. The socket closes with `code`.

    `str(error)` becomes the close reason, which Unreal decodes as ANSI and WebSocket cuts at 123 bytes:
    keep it ASCII and short.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Overloaded(SttError):
    """The server has more work waiting than it can answer in time."""
