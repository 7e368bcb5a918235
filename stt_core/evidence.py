"""Nothing where nothing was said: whether what a model wrote was ever spoken.

Whisper must write something. In a fan, a chord or a footstep it hears the ends of the videos that it learned from
("구독과 좋아요", "Thank you."), counts ("1, 2, 3"), or cries out ("오오오오"). All of these are things people say as
well, so none is forbidden: a text is held back only where the evidence speaks against it. The evidence:

    avg_logprob       how likely the model finds its own text, each token on average
    no_speech_prob    how likely it finds that nobody speaks
    vad_ratio         of the windows in which the voice detector could imagine speech, the share in which it hears it;
                      pauses do not count, and what the detector does not tell (None) does not either

and the guards, each of which holds back what the others let through:

    silence       openai/whisper's rule: nobody speaks, and the text is unlikely; a sure detector needs a surer model
    invention     the text is so unlikely that nothing of it was said, or has no letter
    detector      avg_logprob - no_speech_prob + vad_ratio: what one doubts the others must make up for
    repetition    the text runs in a circle, even when it was decoded again, and nobody seems to speak
    ghost         what Whisper is known to hear in noise, on weaker evidence than other texts are believed on

The sixth guard is about letters: Korean is never written in Han or kana (`other_script`); there the engine decodes
again without those tokens.

To lose a player's words is worse than a ghost, so the thresholds lie nearer to the noise than to the weakest speech.
`python -m local_dev bench silence DATA` measures what each guard is worth; docs/silence.md has the table.
"""

import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stt_core.vad import Probabilities

Guard = Literal["silence", "invention", "detector", "repetition", "ghost", "script"]
GUARDS: frozenset[Guard] = frozenset(get_args(Guard))

NO_SPEECH_THRESHOLD = 0.6  # these three with the names and values of openai/whisper's `transcribe`
LOGPROB_THRESHOLD = -1.0
COMPRESSION_RATIO_THRESHOLD = 2.4
INVENTED_LOGPROB = -1.5
SURE_VAD_RATIO = 0.7  # where the detector is so sure, the model must be, too, to silence it:
SURE_NO_SPEECH = 0.85
BELIEF = -1.05  # of all three together: what one doubts the others must make up for
DOUBTFUL_VAD_RATIO = 0.5
GHOST_BELIEF = -0.8  # of what sounds like a ghost
GHOST_LOGPROB = -0.5  # the same without a detector, where nobody seems to speak

PERHAPS, SURELY = 0.15, 0.5  # speech probabilities of a window

# Letters and digits only, in lower case.
GHOSTS = re.compile(
    r"""
    (여러분)? (시청|봐|들어)해?주셔서 (감사합니다|고맙습니다) | (네|여러분)? (감사합니다|고맙습니다|고마워요|감사해요)+
    | .*구독과?좋아요.* | .*좋아요와?구독.* | 다음(영상|시간|주)에(서)?(만나요|뵙겠습니다|봐요) | .*영상에서만나요
    | 수고하셨습니다 | [아어오우으음]+ | mbc뉴스.* | 한글자막.* | 자막(제공|제작).* | 이시각세계였습니다
    | (you)+ | ((thankyou|thanks)((very|so)much)?(forwatching(thisvideo)?)?)+ | (bye)+ | imsorry
    | (oh|uh|hmm|mm|woo)+ | pleasesubscribe.* | .*subscribetomychannel.* | subtitlesby.* | 123[0-9]*
    """,
    re.VERBOSE,
)
OTHER_SCRIPTS: Mapping[str, re.Pattern[str]] = {
    # Han with its extensions and compatibility forms, kana with theirs and their marks
    "ko": re.compile(
        r"[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u303b\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
        r"\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af]+"
    ),
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a text, and against it."""

    text: str
    avg_logprob: float  # mean log probability of a token
    no_speech_prob: float  # how much the model believes that this is not speech
    vad_ratio: float | None = None  # see `vad_ratio`; None: no detector was asked

    @property
    def detector_is_sure(self) -> bool:
        return self.vad_ratio is not None and self.vad_ratio >= SURE_VAD_RATIO

    @property
    def detector_doubts(self) -> bool:
        return self.vad_ratio is not None and self.vad_ratio < DOUBTFUL_VAD_RATIO

    @property
    def is_silence(self) -> bool:
        """Whether the model hears nobody, and the detector has no better reason."""
        return self.no_speech_prob > (SURE_NO_SPEECH if self.detector_is_sure else NO_SPEECH_THRESHOLD)

    @property
    def belief(self) -> float | None:
        """Model and detector together; None where no detector was asked."""
        return None if self.vad_ratio is None else self.avg_logprob - self.no_speech_prob + self.vad_ratio


def vad_ratio(probabilities: Probabilities | Sequence[float]) -> float:
    """Of the windows in which there could be speech, the share in which the detector hears it, 0 to 1.

    Args:
        probabilities: of an utterance's windows.
    """
    perhaps = sum(probability >= PERHAPS for probability in probabilities)
    return sum(probability >= SURELY for probability in probabilities) / perhaps if perhaps else 0.0


def objection(evidence: Evidence, guards: Collection[Guard] = GUARDS) -> Guard | None:
    """The guard that takes the text for something that nobody said, or None: it was said."""
    if not evidence.text:
        return None
    return next((guard for guard, objects in OBJECTIONS.items() if guard in guards and objects(evidence)), None)


def _silence(it: Evidence) -> bool:
    return it.is_silence and it.avg_logprob < LOGPROB_THRESHOLD


def _invention(it: Evidence) -> bool:
    return it.avg_logprob < INVENTED_LOGPROB or not letters(it.text)


def _detector(it: Evidence) -> bool:
    return it.belief is not None and it.belief < BELIEF


def _repetition(it: Evidence) -> bool:
    if it.detector_doubts and is_babble(it.text):
        return True
    return (it.no_speech_prob > NO_SPEECH_THRESHOLD or it.detector_doubts) and repeats_itself(it.text)


def _ghost(it: Evidence) -> bool:
    if it.belief is not None:
        is_weak = it.belief < GHOST_BELIEF
    else:
        is_weak = it.avg_logprob < (GHOST_LOGPROB if it.is_silence else LOGPROB_THRESHOLD)
    return is_weak and GHOSTS.fullmatch(letters(it.text).lower()) is not None


OBJECTIONS: Mapping[Guard, Callable[[Evidence], bool]] = {
    "silence": _silence,
    "invention": _invention,
    "detector": _detector,
    "repetition": _repetition,
    "ghost": _ghost,
}


def letters(text: str) -> str:
    """The text without spaces and punctuation."""
    return re.sub(r"\W", "", text)


def repeats_itself(text: str) -> bool:
    """Whether a text shows the model running in a circle: a run of four or more letters said three times
    in a row, a shorter one eight times, or a text that compresses as only repetition does (openai/whisper's
    `compression_ratio`)."""
    said = letters(text)
    if re.search(r"(.{4,}?)\1\1", said) or re.search(r"(.{1,3}?)\1{7,}", said):
        return True
    encoded = text.encode()
    return len(encoded) / len(zlib.compress(encoded)) > COMPRESSION_RATIO_THRESHOLD if encoded else False


def is_babble(text: str) -> bool:
    """Whether most of a text is one syllable, three times or more in a row."""
    said = letters(text)
    longest = max((len(run.group()) for run in re.finditer(r"(.)\1{2,}", said)), default=0)
    return longest > len(said) / 2


def other_script(text: str, language: str) -> bool:
    """Whether a text holds letters in which its language is not written today."""
    return language in OTHER_SCRIPTS and OTHER_SCRIPTS[language].search(text) is not None


def in_own_script(text: str, language: str) -> str:
    """The text without such letters."""
    return " ".join(OTHER_SCRIPTS[language].sub(" ", text).split()) if other_script(text, language) else text
