"""Whether a text sounds finished, so that its speaker need not be waited for.

Silence alone cannot tell the end of a sentence from a pause for thought: people pause for 0.7 s in the middle of
a clause, and are done long before that after a short command. The words can. Whisper closes what it believes to be
a sentence with a full stop, and a Korean sentence ends in one of a few syllables, where one that goes on ends in
a particle or a connective (는, 을, 고, 서, 면, …).
"""

import re

from stt_core.transcription import Transcript

SENTENCE_END = re.compile(r"[.?!。？！]$")
TRAILS_OFF = re.compile(r"(\.\.\.|…)$")
KOREAN_FINAL_ENDING = re.compile(r"(요|다|까|죠|줘|자|래|라|야|네|니|해|어|아)$")
# A hesitant transcript is a bad witness: cut-off words come with full stops, too.
CONFIDENT_LOGPROB = -0.6
# Final endings are also the ends of other words, so without a full stop the model has to be surer.
VERY_CONFIDENT_LOGPROB = -0.5


def sounds_finished(transcript: Transcript) -> bool:
    """Whether these words end a sentence, as far as text can tell."""
    text = transcript.text.strip()
    if not text or transcript.doubt or TRAILS_OFF.search(text):
        return False
    if SENTENCE_END.search(text):
        return transcript.avg_logprob >= CONFIDENT_LOGPROB
    if transcript.language == "ko" and KOREAN_FINAL_ENDING.search(text):
        return transcript.avg_logprob >= VERY_CONFIDENT_LOGPROB
    return False
