"""How sure a game may be of a text: the probability that at least four of five of its letters are right.

Of a hundred texts with a confidence of 0.8, some eighty are right, give or take a letter in five; so it can be held
against what asking again costs. Whisper's own number, the mean probability of a token, says no such thing: of Korean
texts that it calls 0.45 one in seven is right, and of those that it calls 0.8 nearly all are. What the decoder tells
for free is enough:

* the mean log probability of a token, under a root, because the step from -0.1 to -0.2 says more than that from -0.9;
* the number of letters: at the beginning of a text the model has no context and doubts what is right, so that of two
  texts with the same mean the shorter is right more often. Fewer letters than four count as four, because there is
  too little to learn from, and what noise is taken for is short;
* the probability that nobody spoke, which noise raises before it spoils the words;
* the language: English is right a little more often than Korean that looks as good.

    confidence = 1 / (1 + exp(-(offset + w1 sqrt(-avg_logprob) + w2 / letters + w3 no_speech_prob)))

A logistic regression over recordings as they are and spoiled in fifteen ways (noise, other voices, rooms, telephones,
keys pressed late), for Whisper `base` as the server decodes. What did not help beyond chance: whether there was a
second look, letters per second, the length of the audio, and what else stood in the beam. Other models believe in
themselves to other degrees, and so do other languages: theirs keep the order, not the meaning of the number.
`python -m local_dev bench confidence DATA` fits it again.
"""

import math
import re
from collections.abc import Mapping

from stt_core.transcription import Transcript

TOLERANCE = 0.2  # share of its letters that may be wrong in a text that counts as right
OFFSETS: Mapping[str, float] = {"ko": 6.79, "en": 7.12}
OFFSET_ELSEWHERE = OFFSETS["ko"]  # the more cautious one
WEIGHTS = (-10.8, 12.34, -1.67)  # of the features
FEWEST_LETTERS = 4


def features(transcript: Transcript) -> tuple[float, float, float]:
    """What the weights are multiplied by: the doubt in the tokens, the shortness, and the probability of no speech."""
    letters = len(re.sub(r"[\W_]", "", transcript.text))
    doubt = math.sqrt(max(0.0, -transcript.avg_logprob))
    return doubt, 1 / max(FEWEST_LETTERS, letters), transcript.no_speech_prob


def confidence(transcript: Transcript) -> float:
    """The probability that a text is right, 0 to 1; 0 where there is none."""
    if not transcript.text:
        return 0.0
    offset = OFFSETS.get(transcript.language, OFFSET_ELSEWHERE)
    logit = offset + sum(weight * x for weight, x in zip(WEIGHTS, features(transcript), strict=True))
    return 1 / (1 + math.exp(min(50.0, -logit)))
