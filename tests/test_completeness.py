"""Which words sound finished."""

import pytest

from stt_core.completeness import sounds_finished
from stt_core.transcription import Transcript


@pytest.mark.parametrize(
    ("text", "language", "avg_logprob", "finished"),
    [
        ("문을 열어 줘.", "ko", -0.3, True),
        ("체력이 얼마나 남았어?", "ko", -0.3, True),
        ("왼쪽으로 가자", "ko", -0.2, True),
        ("공격해", "ko", -0.2, True),
        ("정답은 청개구리입니다", "ko", -0.2, True),
        ("지금 우리나라는", "ko", -0.2, False),
        ("처음부터 지금까지", "ko", -0.2, False),
        ("소화가 더 안 되고", "ko", -0.2, False),
        ("문을 열어 줘", "ko", -0.55, False),  # no full stop, and not sure
        ("이런 거 하는?", "ko", -0.64, False),  # a full stop, but a bad witness
        ("정답은...", "ko", -0.2, False),
        ("Open the gate.", "en", -0.3, True),
        ("Open the", "en", -0.1, False),
        ("", "ko", 0.0, False),
    ],
)
def test_words_that_end_a_sentence_sound_finished(text: str, language: str, avg_logprob: float, finished: bool) -> None:
    assert finished == sounds_finished(Transcript(text, language, avg_logprob))
