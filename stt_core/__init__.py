"""Speech to text for games: the core, without a server.

>>> from stt_core import Transcriber
>>> transcriber = Transcriber(language="ko")
>>> transcriber.transcribe("test_audio/mom.wav").text
'엄마'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stt_core.transcriber import Transcriber

__all__ = ["Transcriber", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load what is asked for only when it is: importing the package stays instant."""
    if name == "Transcriber":
        from stt_core.transcriber import Transcriber

        return Transcriber
    raise AttributeError(f"module 'stt_core' has no attribute {name!r}")
