"""Segments as subtitles: SubRip (srt) and WebVTT (vtt).

Sources: https://www.w3.org/TR/webvtt1/ and what players take as SubRip, which has no standard.
"""

from collections.abc import Iterable

from stt_core.transcription import Segment


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip: numbered from 1, a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(segment.start_s, ',')} --> {_clock(segment.end_s, ',')}\n{_line(segment)}\n\n"
        for number, segment in enumerate(_spoken(segments), 1)
    )


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT: a point before the milliseconds, and `&`, `<` and `>` escaped, or they would be markup."""
    cues = (
        f"{_clock(segment.start_s, '.')} --> {_clock(segment.end_s, '.')}\n{_escaped(_line(segment))}\n\n"
        for segment in _spoken(segments)
    )
    return "WEBVTT\n\n" + "".join(cues)


def _spoken(segments: Iterable[Segment]) -> Iterable[Segment]:
    return (segment for segment in segments if segment.text.strip())


def _line(segment: Segment) -> str:
    """An empty line would end the cue."""
    return " ".join(segment.text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """`01:02:03,456`."""
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
