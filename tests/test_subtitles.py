"""Subtitles: what players read."""

from stt_core.subtitles import to_srt, to_vtt
from stt_core.transcription import Segment

SEGMENTS = [Segment(" 문을 열어 줘", 0.0, 1.25), Segment("Tom & <b>Jerry</b>\n\n--> now", 3599.9996, 3723.004)]


def test_srt_is_numbered_and_has_commas():
    assert (
        "1\n00:00:00,000 --> 00:00:01,250\n문을 열어 줘\n\n"
        "2\n01:00:00,000 --> 01:02:03,004\nTom & <b>Jerry</b> --> now\n\n"
    ) == to_srt(SEGMENTS)


def test_vtt_has_a_header_and_points_and_no_markup():
    assert (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.250\n문을 열어 줘\n\n"
        "01:00:00.000 --> 01:02:03.004\nTom &amp; &lt;b&gt;Jerry&lt;/b&gt; --&gt; now\n\n"
    ) == to_vtt(SEGMENTS)


def test_silence_has_no_subtitles():
    assert ("", "WEBVTT\n\n") == (to_srt([]), to_vtt([Segment("  ", 0.0, 1.0)]))
