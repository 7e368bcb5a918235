"""The engine: what it decides by itself, and what the real model makes of what was said."""

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import silence, tone
from hypothesis import given
from hypothesis import strategies as st

from local_dev.bench import Clip, Ours, Stock, read_manifest
from stt_core.alternatives import put_in_place
from stt_core.audio import SAMPLE_RATE, read_audio
from stt_core.endpointing import EndpointingOptions
from stt_core.engine import (
    LONGEST_SPEECH_S,
    POSITIONS,
    SECOND_LOOK_FRAMES,
    WhisperEngine,
    _Model,
    quietest,
    split_at_pauses,
)
from stt_core.errors import ModelError
from stt_core.evidence import GUARDS
from stt_core.phrases import PhraseBook
from stt_core.scoring import score
from stt_core.transcription import Request, Transcript
from stt_core.utterances import whole_utterance
from stt_core.vad import SileroVad

REPOSITORY = Path(__file__).resolve().parent.parent
TEST_AUDIO = REPOSITORY / "test_audio"
SPEECH = Path(os.environ.get("STT_SPEECH_DIR") or REPOSITORY.parent / "shared" / "speech")

# ---- without a model ---------------------------------------------------------------------------------------


def test_speech_that_fits_into_the_window_is_not_split():
    samples = tone(LONGEST_SPEECH_S)

    [piece] = split_at_pauses(samples)

    assert piece is samples


def test_long_speech_is_split_in_its_pause():
    first, second = split_at_pauses(np.concatenate([tone(20), silence(0.5), tone(20)]))

    assert (20.25, 20.25) == (
        pytest.approx(len(first) / SAMPLE_RATE, abs=0.16),
        pytest.approx(len(second) / SAMPLE_RATE, abs=0.16),
    )


@given(st.lists(st.tuples(st.floats(0.1, 30), st.floats(0, 1)), max_size=5))
def test_the_pieces_are_all_of_it_and_each_fits(parts):
    samples = np.concatenate([silence(0), *(part for on, off in parts for part in (tone(on), silence(off)))])

    pieces = split_at_pauses(samples)

    assert np.array_equal(samples, np.concatenate(pieces))
    assert all(len(piece) <= LONGEST_SPEECH_S * SAMPLE_RATE for piece in pieces)


def test_the_quietest_moment_is_in_the_middle_of_the_pause():
    samples = np.concatenate([tone(1), silence(0.2), tone(1)])

    assert 1.1 == pytest.approx(quietest(samples, 0, len(samples)) / SAMPLE_RATE, abs=0.01)


# ---- with a scripted model ---------------------------------------------------------------------------------

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|ko|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
]


def toy_tokenizer():
    """Every byte is a token, and so are " t" and what Whisper needs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, [("Ġ", "t")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return tokenizer


class Scripted:
    """A model that says what it is told, call by call and request by request, and notes what it was asked."""

    def __init__(self, *script: list[str], is_multilingual: bool = True) -> None:
        self.script = list(script)
        self.is_multilingual = is_multilingual
        self.score, self.no_speech_prob = -0.1, 0.0
        self.encoded: list[int] = []  # frames
        self.calls: list[SimpleNamespace] = []
        self.aligned: list[list[str]] = []
        self.attended: list[int] = []  # states
        self.align_error: Exception | None = None
        self.tokenizer = toy_tokenizer()
        self.kept: list[int] | None = None  # of a cut vocabulary

    def _tokens(self, text):
        ids = self.tokenizer.encode(text).ids
        return ids if self.kept is None else [self.kept.index(i) for i in ids]

    def _text(self, tokens):
        return self.tokenizer.decode([i if self.kept is None else self.kept[i] for i in tokens], False)

    def encode(self, features, to_cpu):
        import ctranslate2

        batch, _, frames = np.array(features).shape
        self.encoded.append(frames)
        return ctranslate2.StorageView.from_array(np.zeros((batch, frames // 2, 4), np.float32))

    def generate(self, memories, prompts, **options):
        self.calls.append(SimpleNamespace(prompts=[self._text(prompt) for prompt in prompts], **options))
        return [
            SimpleNamespace(
                sequences_ids=[self._tokens(f" {text}")],
                scores=[self.score],
                no_speech_prob=self.no_speech_prob,
            )
            for text, _ in zip(self.script.pop(0), prompts, strict=True)
        ]

    def align(self, memory, start, texts, frames):
        """Every token takes as long as any other, and is as likely as the text has it: "2" is 0.2."""
        if self.align_error:
            raise self.align_error
        self.aligned.append([self._text(tokens).strip() for tokens in texts])
        self.attended.append(np.array(memory).shape[1])
        return [
            SimpleNamespace(alignments=self._path(tokens, number), text_token_probs=[self._likely(i) for i in tokens])
            for tokens, number in zip(texts, frames if isinstance(frames, list) else [frames], strict=True)
        ]

    def _path(self, tokens, frames):
        states = frames // 2
        return [(state * (len(tokens) + 1) // states, state) for state in range(states)]

    def _likely(self, token):
        character = self._text([token])
        return int(character) / 10 if character.isdigit() else 0.5


class ScriptedEngine(WhisperEngine):
    """`without`: the letters that were cut from the vocabulary of English."""

    def __init__(self, *script: list[str], is_multilingual: bool = True, guards=GUARDS, without: str = "") -> None:
        super().__init__("scripted", languages=("en",) if without else (), device="cpu", guards=guards)
        self.scripted = Scripted(*script, is_multilingual=is_multilingual)
        self.without = without
        self.loads = 0
        self.load()
        self.scripted.encoded.clear()  # the silence

    def fetch(self, on_progress=None):
        return Path()

    def _load_cut(self):
        if not self.without:
            return None
        vocabulary = self.scripted.tokenizer.get_vocab()
        self.scripted.kept = sorted(i for token, i in vocabulary.items() if token not in self.without)
        return self._load(Path(), np.array(self.scripted.kept))

    def _load(self, folder, kept=None):
        self.loads += 1

        def mel(samples, padding):
            return np.zeros((80, len(samples) // 160), np.float32)

        whisper = SimpleNamespace(model=self.scripted, hf_tokenizer=self.scripted.tokenizer, feature_extractor=mel)
        return _Model(whisper, kept)


def test_what_runs_in_a_circle_is_decoded_again_behind_more_silence():
    engine = ScriptedEngine(["go left, go left, go left"], ["go left"])

    [transcript] = engine.transcribe([Request(tone(1), "en")])

    assert ("go left", True) == (transcript.text, transcript.second_look)
    assert [400, SECOND_LOOK_FRAMES] == engine.scripted.encoded
    assert {"looped": 1, "weak": 0, "sparse": 0, "whole_model": 0} == engine.counts


def test_the_second_look_leaves_out_the_bias_that_may_have_led_in_circles():
    engine = ScriptedEngine(["go left, go left, go left"], ["go left"])

    engine.transcribe([Request(tone(1), "en", hotwords="left")])

    assert ["<|startofprev|> left<|startoftranscript|>", "<|startoftranscript|>"] == [
        call.prompts[0].partition("<|en|>")[0] for call in engine.scripted.calls
    ]


def test_a_draft_is_greedy_and_never_looked_at_twice():
    engine = ScriptedEngine(["go"])

    [transcript] = engine.transcribe([Request(tone(4), "en", draft=True)])

    assert "go" == transcript.text
    assert [1] == [call.beam_size for call in engine.scripted.calls]
    assert not any(engine.counts.values())


def test_a_draft_is_cut_in_the_middle_of_a_word_and_need_not_be_likely():
    engine = ScriptedEngine(["go go go go"], ["go go go go"])
    engine.scripted.score, engine.scripted.no_speech_prob = -1.3, 0.9

    draft, final = engine.transcribe([Request(tone(1), "en", draft=True), Request(tone(1), "en", hurried=True)])

    assert ("go go go go", "") == (draft.text, final.text)


@pytest.mark.parametrize(("vad_ratio", "shown"), [(0.2, ""), (0.9, "Thank you"), (None, "Thank you")])
def test_a_draft_shows_no_ghost_that_the_final_would_hold_back(vad_ratio, shown):
    engine = ScriptedEngine(["Thank you"])
    engine.scripted.score, engine.scripted.no_speech_prob = -0.6, 0.5

    [transcript] = engine.transcribe([Request(tone(1), "en", draft=True, vad_ratio=vad_ratio)])

    assert shown == transcript.text


def test_a_draft_that_nobody_would_believe_shows_nothing():
    engine = ScriptedEngine(["go go go go"])
    engine.scripted.score = -2.5

    assert "" == engine.transcribe([Request(tone(1), "en", draft=True)])[0].text


def test_a_draft_of_a_word_has_the_shorter_memory_for_it_comes_again_soon():
    engine = ScriptedEngine(["go"], ["go"])

    draft, final = engine._memories([Request(tone(1), "en", draft=True), Request(tone(1), "en")])

    assert (1000, 1500) == (draft.shape[1], final.shape[1])


def test_a_draft_that_runs_in_a_circle_shows_nothing():
    engine = ScriptedEngine(["go left, go left, go left"])

    assert "" == engine.transcribe([Request(tone(1), "en", draft=True)])[0].text


def test_what_the_detector_never_believed_must_be_likely():
    engine = ScriptedEngine(*[["go"]] * 6)  # so unlikely that it is decoded twice
    engine.scripted.score = -1.6

    ratios = [None, 0.6, 0.1]

    assert ["go", "go", ""] == [
        engine.transcribe([Request(tone(1), "en", vad_ratio=ratio)])[0].text for ratio in ratios
    ]


def test_without_guards_everything_is_told():
    engine = ScriptedEngine(["休息"], ["休息"], guards=())
    engine.scripted.score = -4.0

    assert "休息" == engine.transcribe([Request(tone(1), "ko", vad_ratio=0.0)])[0].text


def test_korean_in_han_is_decoded_again_without_the_tokens_of_han():
    engine = ScriptedEngine(["쉬자", "休息 좀 하자"], ["휴식 좀 하자"])

    texts = [one.text for one in engine.transcribe([Request(tone(1), "ko"), Request(tone(1), "ko")])]

    assert ["쉬자", "휴식 좀 하자"] == texts
    assert [2, 1] == [len(call.prompts) for call in engine.scripted.calls]


def test_han_that_is_spelled_byte_by_byte_is_left_out():
    engine = ScriptedEngine(["休息 좀 하자"], ["休息 좀 하자"])

    assert "좀 하자" == engine.transcribe([Request(tone(1), "ko")])[0].text


@pytest.mark.parametrize(("language", "task"), [("en", "transcribe"), ("ko", "translate")])
def test_han_is_left_alone_where_no_korean_is_written(language, task):
    engine = ScriptedEngine(["休息"])

    assert "休息" == engine.transcribe([Request(tone(1), language, task=task)])[0].text


@pytest.mark.parametrize(
    ("halves", "text"),
    [
        (["go to the castle", "and open the gate"], "go to the castle and open the gate"),
        (["go", ""], "go now"),  # they tell no more
        (["go to the castle", "la la la la la la la la la la la"], "go now"),  # not to be believed
    ],
)
def test_speech_with_too_little_text_is_heard_in_halves(halves, text):
    engine = ScriptedEngine(["go now"], halves[:1], halves[1:])

    [transcript] = engine.transcribe([Request(tone(6), "en")])

    assert text == transcript.text
    assert 1 == engine.counts["sparse"]


def test_requests_with_other_hotwords_languages_or_tasks_do_not_share_a_batch():
    requests = [
        Request(tone(1), "en"),
        Request(tone(1), "en", hotwords="gate"),
        Request(tone(1), "en", prompt="Once."),
        Request(tone(1), "ko"),
        Request(tone(1), "ko", task="translate"),
        Request(tone(1), "ko", draft=True),
        Request(tone(1), "en"),
    ]
    engine = ScriptedEngine(*[["a word or two"] * count for count in (1, 2, 1, 1, 1, 1)])

    engine.transcribe(requests)

    assert {
        ("<|startoftranscript|><|en|><|transcribe|><|notimestamps|>", 5): 2,
        ("<|startofprev|> gate<|startoftranscript|><|en|><|transcribe|><|notimestamps|>", 5): 1,
        ("<|startofprev|> Once.<|startoftranscript|><|en|><|transcribe|><|notimestamps|>", 5): 1,
        ("<|startoftranscript|><|ko|><|transcribe|><|notimestamps|>", 5): 1,
        ("<|startoftranscript|><|ko|><|translate|><|notimestamps|>", 5): 1,
        ("<|startoftranscript|><|ko|><|transcribe|><|notimestamps|>", 1): 1,
    } == {(call.prompts[0], call.beam_size): len(call.prompts) for call in engine.scripted.calls}


@pytest.mark.parametrize("seconds", [0.3, 10, 28])
def test_the_bias_leaves_room_for_the_text(seconds):
    engine = ScriptedEngine(["a word or two " + "x" * 200])
    request = Request(tone(seconds), "en", draft=True, hotwords="gate " * 500, prompt="Once upon a time. " * 500)

    engine.transcribe([request])

    [call] = engine.scripted.calls
    prompt = len(engine.scripted.tokenizer.encode(call.prompts[0]).ids)
    assert prompt <= POSITIONS // 2 + 5
    assert prompt + seconds * 12 + 8 <= POSITIONS
    assert call.prompts[0].startswith("<|startofprev|> gate gate")


def test_special_tokens_in_hotwords_are_text():
    engine = ScriptedEngine(["a word or two"])

    engine.transcribe([Request(tone(1), "en", draft=True, hotwords="<|endoftext|> <|ko|>", prompt="<|nospeech|>")])

    [call] = engine.scripted.calls
    special = [engine.scripted.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    [asked] = [engine._manner(Request(tone(1), "en", hotwords="<|endoftext|> <|ko|>", prompt="<|nospeech|>"), "en")]
    assert "<|startofprev|> <|endoftext|> <|ko|> <|nospeech|><|startoftranscript|>" in call.prompts[0]
    assert [special[SPECIAL_TOKENS.index("<|startofprev|>")]] == [token for token in asked.bias if token in special]


def test_an_english_only_model_refuses_to_translate():
    engine = ScriptedEngine(is_multilingual=False)

    with pytest.raises(ModelError, match="cannot translate"):
        engine.transcribe([Request(tone(1), "ko", task="translate")])


def test_a_language_that_the_model_does_not_have_is_refused():
    with pytest.raises(ModelError, match="does not know the language yue"):
        ScriptedEngine().transcribe([Request(tone(1), "yue")])


def test_sentences_and_words_get_their_times():
    engine = ScriptedEngine(["Go on. Stop!"])

    [transcript] = engine.transcribe([Request(tone(1.3), "en", timestamps="word")])

    first, second = transcript.segments
    assert ("Go on.", "Stop!") == (first.text, second.text)
    assert [" Go", " on.", " Stop!"] == [word.text for segment in transcript.segments for word in segment.words]
    assert 0.0 == first.start_s < first.end_s <= second.start_s < second.end_s <= 1.3


def test_segments_alone_have_no_words():
    [transcript] = ScriptedEngine(["Go on."]).transcribe([Request(tone(1.3), "en", timestamps="segment")])

    assert [("Go on.", ())] == [(segment.text, segment.words) for segment in transcript.segments]


def test_no_segment_is_too_long_to_be_read():
    engine = ScriptedEngine(["one two three four five six seven eight nine"])

    [transcript] = engine.transcribe([Request(tone(27), "en", timestamps="segment", draft=True)])

    assert all(segment.end_s - segment.start_s <= 10 for segment in transcript.segments)
    assert "one two three four five six seven eight nine" == " ".join(s.text for s in transcript.segments)


def test_words_hold_no_silence():
    engine = ScriptedEngine(["go on"])
    samples = np.concatenate([silence(0.5), tone(0.5), silence(1), tone(0.5), silence(0.5)])

    [transcript] = engine.transcribe([Request(samples, "en", timestamps="word", draft=True)])

    [segment] = transcript.segments
    first, second = [(word.start_s, word.end_s) for word in segment.words]
    assert (0.5, 1.0, 2.0, 2.5) == pytest.approx((*first, *second), abs=0.03)


def test_the_pieces_of_long_speech_keep_their_place_in_it():
    engine = ScriptedEngine(["Second one.", "First one."])  # the shorter one first
    samples = np.concatenate([tone(20), silence(0.5), tone(18)])
    cut_s = len(split_at_pauses(samples)[0]) / SAMPLE_RATE

    [transcript] = engine.transcribe([Request(samples, "en", draft=True, timestamps="word")])

    assert "First one. Second one." == transcript.text
    words = [word for segment in transcript.segments for word in segment.words]
    assert [" First", " one.", " Second", " one."] == [word.text for word in words]
    assert words[1].end_s <= cut_s <= words[2].start_s < words[3].end_s <= len(samples) / SAMPLE_RATE


def asking(samples, alternatives, **options):
    return Request(samples, "en", alternatives=lambda text: alternatives, **options)


def test_the_model_is_asked_how_likely_alternatives_are():
    engine = ScriptedEngine(["go 9"])

    [transcript] = engine.transcribe([asking(tone(1), {"two": "go 2", "the same": "go 9", "longer": "go 9 8"})])

    assert "go 9" == transcript.text
    assert {"two": np.log(0.2), "the same": 0.0, "longer": (np.log(0.5) + np.log(0.8)) / 2} == pytest.approx(
        dict(transcript.heard)
    )
    assert [["go 2", "go 9", "go 9 8"]] == engine.scripted.aligned


@pytest.mark.parametrize("options", [{"draft": True}, {"hurried": True}])
def test_a_draft_and_what_is_hurried_are_not_asked_about(options):
    engine = ScriptedEngine(["go 9"])

    [transcript] = engine.transcribe([asking(tone(1), {"two": "go 2"}, **options)])

    assert ("go 9", {}, []) == (transcript.text, transcript.heard, engine.scripted.aligned)


def test_what_is_in_doubt_is_asked_about_after_its_second_look():
    engine = ScriptedEngine(["go left, go left, go left"], ["go 9"])

    [first] = engine.transcribe([asking(tone(1), {"two": "go 2"}, quick=True)])
    assert ("looped", {}) == (first.doubt, first.heard)
    [second] = engine.transcribe([asking(tone(1), {"two": "go 2"}, first=first)])
    assert ("go 9", {"two"}) == (second.text, set(second.heard))


def test_a_second_look_is_asked_about_with_what_it_heard():
    engine = ScriptedEngine(["go 9"])
    first = Transcript("go left, go left, go left", "en", -0.1, 0.0, doubt="looped")

    [second] = engine.transcribe([asking(tone(1), {"two": "go 2"}, first=first)])

    assert {"two"} == set(second.heard)
    assert ([SECOND_LOOK_FRAMES], [200]) == (engine.scripted.encoded, engine.scripted.attended)


def test_nothing_is_encoded_only_to_ask_about_it():
    engine = ScriptedEngine(["go to the castle"], ["and open the gate"])
    first = Transcript("go now", "en", -0.1, 0.0, doubt="sparse")

    [second] = engine.transcribe([asking(tone(6), {"two": "go 2"}, first=first)])

    assert ("go to the castle and open the gate", {}) == (second.text, second.heard)
    assert [] == engine.scripted.aligned


def test_the_silence_that_ends_a_text_is_not_looked_through_for_alternatives():
    engine = ScriptedEngine(["go 9"], ["the quick brown fox jumps over the lazy dog"])

    engine.transcribe([asking(tone(1), {"two": "go 2"})])
    engine.transcribe([asking(tone(10), {"two": "go 2"})])

    assert [200, 525] == engine.scripted.attended


def test_what_a_cut_vocabulary_cannot_write_is_left_to_the_text():
    engine = ScriptedEngine(["go 9"], without="z")

    [transcript] = engine.transcribe([asking(tone(1), {"maze": "go maze", "two": "go 2"})])

    assert {"two": np.log(0.2)} == pytest.approx(dict(transcript.heard))
    assert ([["go 2"]], 1) == (engine.scripted.aligned, engine.loads)


def test_the_whole_model_is_never_loaded_to_ask_about_phrases():
    engine = ScriptedEngine(["go 9"], without="z")
    first = Transcript("z", "en", -0.95, 0.0, doubt="weak")  # what the cut model wrote letter by letter
    engine.scripted.score = -3.0

    transcripts = engine.transcribe([asking(tone(1), {"two": "go 2"}, first=first)])

    assert ["z"] == [one.text for one in transcripts]
    assert ([["go 2"]], 1) == (engine.scripted.aligned, engine.loads)


@pytest.mark.parametrize("text", ["", " ", "go " * 300])
def test_what_cannot_be_written_is_not_asked_about(text):
    engine = ScriptedEngine(["go 9"])

    [transcript] = engine.transcribe([asking(tone(1), {"bad": text, "two": "go 2"})])

    assert ("go 9", {"two"}) == (transcript.text, set(transcript.heard))


def test_no_text_is_no_question():
    engine = ScriptedEngine([""])

    [transcript] = engine.transcribe([asking(tone(1), {"two": "go 2"})])

    assert ("", {}, []) == (transcript.text, transcript.heard, engine.scripted.aligned)


def test_a_question_that_fails_does_not_lose_the_text(caplog):
    engine = ScriptedEngine(["go 9"])
    engine.scripted.align_error = RuntimeError("out of memory")

    [transcript] = engine.transcribe([asking(tone(1), {"two": "go 2"})])

    assert ("go 9", {}) == (transcript.text, transcript.heard)
    assert "out of memory" in caplog.text


def test_speech_longer_than_the_window_is_not_asked_about():
    half = "the quick brown fox jumps over the lazy dog, and nobody hears it coming back"
    engine = ScriptedEngine([half], [half])

    [transcript] = engine.transcribe([asking(tone(LONGEST_SPEECH_S + 10), {"two": "go 2"})])

    assert (f"{half} {half}", {}) == (transcript.text, transcript.heard)


# ---- with the model ----------------------------------------------------------------------------------------


def clips(language: str) -> list[Clip]:
    return [clip for clip in read_manifest(TEST_AUDIO) if clip.language == language and clip.text]


def request(clip: Clip, language: str = "") -> Request:
    speech = whole_utterance(read_audio(clip.path), SileroVad(), EndpointingOptions()).samples
    return Request(speech, language or clip.language)


@pytest.fixture(scope="module")
def engine():
    engine = WhisperEngine("base", languages=("ko",), device="cpu")
    engine.load()
    return engine


@pytest.mark.model
def test_every_line_is_understood(engine):
    said = clips("ko")
    heard = engine.transcribe([request(clip) for clip in said])

    errors = {clip.id: score(clip.text, t.text, "ko").errors for clip, t in zip(said, heard, strict=True)}
    assert {clip.id: 0 for clip in said} == errors


@pytest.mark.model
def test_a_text_does_not_depend_on_who_else_is_in_the_batch(engine):
    requests = [request(clip) for clip in clips("ko") + clips("en")[:2]]

    alone = [engine.transcribe([one])[0].text for one in requests]

    assert alone == [transcript.text for transcript in engine.transcribe(requests)]
    assert alone[::-1] == [transcript.text for transcript in engine.transcribe(requests[::-1])]


@pytest.mark.model
def test_threads_may_share_the_engine(engine):
    requests = [request(clip) for clip in clips("ko")[:6]]
    expected = [transcript.text for transcript in engine.transcribe(requests)]

    with ThreadPoolExecutor(3) as threads:
        heard = list(threads.map(lambda one: engine.transcribe([one])[0].text, requests))

    assert expected == heard


@pytest.mark.model
@pytest.mark.parametrize("name", ["silence", "noise"])
def test_nothing_was_said(engine, name):
    samples = read_audio(TEST_AUDIO / f"{name}.wav")

    assert 0 == len(whole_utterance(samples, SileroVad(), EndpointingOptions()).samples)
    [transcript] = engine.transcribe([Request(samples, "ko")])  # what the detector lets through by mistake
    assert ("", True) == (transcript.text, transcript.second_look)


@pytest.mark.model
@pytest.mark.parametrize("language", ["ko", "en"])
def test_thanks_that_were_said_come_through(engine, language):
    said = [clip for clip in clips(language) if clip.id.startswith("thank")]
    assert said

    for ratio in (None, 0.5):  # even if the detector was hardly sure
        heard = engine.transcribe([replace(request(clip), vad_ratio=ratio) for clip in said])
        assert 0 == sum(score(clip.text, t.text, language).errors for clip, t in zip(said, heard, strict=True))


@pytest.mark.model
def test_the_tokens_of_han_and_kana_are_known(engine):
    whole = engine._whole_model()

    assert 1000 < len(engine._foreign_tokens("ko", whole))
    assert len(engine._foreign_tokens("ko", engine._loaded)) < 10  # fragments, which the cut model keeps
    assert not engine._foreign_tokens("en", whole)


@pytest.mark.model
def test_no_audio_is_no_text(engine):
    assert [] == engine.transcribe([])
    assert "" == engine.transcribe([Request(silence(0), "ko")])[0].text


@pytest.mark.model
def test_a_language_that_is_not_served_is_answered_by_the_whole_model(engine):
    said = clips("en")
    heard = engine.transcribe([request(clip) for clip in said])

    assert 0 == sum(score(clip.text, t.text, "en").errors for clip, t in zip(said, heard, strict=True))


@pytest.mark.model
def test_auto_finds_the_language(engine):
    said = [clip for clip in clips("ko") if clip.id == "two_sentences"] + [
        clip for clip in clips("en") if clip.id == "where_is_the_treasure"
    ]
    heard = engine.transcribe([request(clip, "auto") for clip in said])

    assert ["ko", "en"] == [transcript.language for transcript in heard]
    assert [0, 0] == [score(c.text, t.text, c.language).errors for c, t in zip(said, heard, strict=True)]


@pytest.mark.model
def test_a_recording_longer_than_the_window_loses_and_doubles_nothing(engine):
    said = clips("ko") * 2
    recording = np.concatenate([part for clip in said for part in (read_audio(clip.path), silence(0.3))])
    assert len(recording) > LONGEST_SPEECH_S * SAMPLE_RATE

    [transcript] = engine.transcribe([Request(recording, "ko")])

    assert 0.1 > score(" ".join(clip.text for clip in said), transcript.text, "ko").rate


@pytest.mark.model
@pytest.mark.parametrize("seed", [1, 2])
def test_clips_in_any_order_give_their_texts_in_that_order(engine, seed):
    said = clips("ko")
    order = [said[i] for i in np.random.default_rng(seed).permutation(len(said))]
    recording = np.concatenate([part for clip in order for part in (read_audio(clip.path), silence(0.4))])
    assert len(recording) > LONGEST_SPEECH_S * SAMPLE_RATE

    [transcript] = engine.transcribe([Request(recording, "ko", timestamps="word")])

    assert 0.1 > score(" ".join(clip.text for clip in order), transcript.text, "ko").rate
    assert_in_order(transcript, len(recording) / SAMPLE_RATE)


def assert_in_order(transcript: Transcript, duration_s: float) -> None:
    """The segments are the text, their words are theirs, and no time runs backwards or out of the audio."""
    assert transcript.text == " ".join(segment.text for segment in transcript.segments)
    for segment in transcript.segments:
        assert segment.text == "".join(word.text for word in segment.words).strip()
        assert (segment.start_s, segment.end_s) == (segment.words[0].start_s, segment.words[-1].end_s)
    words = [word for segment in transcript.segments for word in segment.words]
    assert all(0 <= word.start_s <= word.end_s <= duration_s for word in words)
    assert all(one.end_s <= other.start_s for one, other in pairwise(words))


@pytest.mark.model
def test_asking_for_times_changes_no_text(engine):
    requests = [request(clip) for clip in clips("ko") + clips("en")[:2]]

    plain = engine.transcribe(requests)
    timed = engine.transcribe([replace(one, timestamps="word") for one in requests])

    assert [one.text for one in plain] == [one.text for one in timed]
    for one, transcript in zip(requests, timed, strict=True):
        assert_in_order(transcript, len(one.samples) / SAMPLE_RATE)


@pytest.mark.model
def test_a_pause_between_two_sentences_belongs_to_neither(engine):
    samples = read_audio(TEST_AUDIO / "two_sentences.wav")

    [transcript] = engine.transcribe([Request(samples, "ko", timestamps="word")])

    words = {word.text.strip(): word for segment in transcript.segments for word in segment.words}
    assert (1.3, 3.0) == pytest.approx((words["가자"].end_s, words["마법을"].start_s), abs=0.3)


@pytest.mark.model
def test_hotwords_bias_their_own_request_and_no_other(engine):
    plain = [request(clip) for clip in clips("ko")[:4]]
    biased = [replace(one, hotwords="청개구리 <|endoftext|>", prompt="용을 공격해!") for one in plain[:2]]

    alone = [engine.transcribe([one])[0].text for one in plain + biased]

    assert alone == [transcript.text for transcript in engine.transcribe(plain + biased)]


@pytest.mark.model
def test_a_hotword_whose_letters_were_cut_away_asks_the_whole_model(engine):
    [help_me] = [request(clip) for clip in clips("ko") if clip.id == "help_me"]
    before = engine.counts["whole_model"]

    [korean] = engine.transcribe([replace(help_me, hotwords="청개구리")])
    assert before == engine.counts["whole_model"]
    [chinese] = engine.transcribe([replace(help_me, hotwords="龍")])

    assert before + 1 == engine.counts["whole_model"]
    assert ["도와주세요", "도와주세요"] == [korean.text.strip(".!"), chinese.text.strip(".!")]


@pytest.mark.model
def test_a_hotword_is_heard(engine):
    [clip] = [clip for clip in clips("ko") if clip.id == "answer_tree_frog"]

    [transcript] = engine.transcribe([replace(request(clip), hotwords="청개구리")])

    assert "청개구리" in transcript.text  # without it: 청 개구리


@pytest.mark.model
def test_translation_is_english(engine):
    [clip] = [clip for clip in clips("ko") if clip.id == "two_sentences"]

    [transcript] = engine.transcribe([replace(request(clip), task="translate")])

    assert "left" in transcript.text.lower()
    assert "ko" == transcript.language


@pytest.mark.model
def test_every_the_is_one_token(engine):
    assert [engine._encoder.token_to_id("Ġthe")] == engine._encoded("the")


WIDTH = 32  # of a model that was never trained


def tiny_shape(name: str, tokens: int) -> tuple[int, ...]:
    """The shape of a Whisper variable, for 128 mels and one WIDTH for all."""
    return next(
        shape
        for part, shape in {
            "gamma": (WIDTH,),
            "beta": (WIDTH,),
            "conv1": (WIDTH, 128, 3),
            "conv2": (WIDTH, WIDTH, 3),
            "encoder/position": (1500, WIDTH),
            "decoder/position": (POSITIONS, WIDTH),
            "embeddings": (tokens, WIDTH),
            "projection": (tokens, WIDTH),
            "ffn/linear_0": (4 * WIDTH, WIDTH),
            "ffn/linear_1": (WIDTH, 4 * WIDTH),
            "self_attention/linear_0": (3 * WIDTH, WIDTH),
            "self_attention/linear_1": (WIDTH, WIDTH),
            "attention/linear_1": (2 * WIDTH, WIDTH),
            "attention/linear": (WIDTH, WIDTH),
        }.items()
        if part in name
    )


@pytest.fixture(scope="module")
def tiny_turbo(tmp_path_factory) -> Path:
    """A model that was never trained, with large-v3-turbo's vocabulary, mels and files."""
    from ctranslate2.specs import WhisperSpec
    from ctranslate2.specs.model_spec import index_spec

    folder, base, random = (
        tmp_path_factory.mktemp("models") / "tiny",
        WhisperEngine("base").fetch(),
        np.random.default_rng(0),
    )
    tokens = (base / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    new = tokens.index("<|translate|>")
    tokens.insert(new, "<|yue|>")
    spec = WhisperSpec(2, 2, 2, 2)
    # None: still to be set. The specification takes positions for optional, CTranslate2 does not.
    spec.encoder.position_encodings.encodings = spec.decoder.position_encodings.encodings = None
    for name, value in spec.variables().items():
        if value is None:
            scope, _, own = name.rpartition("/")
            array = random.normal(0, 0.2, tiny_shape(name, len(tokens))).astype(np.float32)
            setattr(index_spec(spec, scope), own, array)
    spec.register_vocabulary(tokens)
    spec.config.lang_ids = list(range(tokens.index("<|startoftranscript|>") + 1, new + 1))
    spec.config.alignment_heads = [[0, 0], [1, 1]]
    spec.validate()
    folder.mkdir()
    spec.save(str(folder))
    tokenizer = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    for token in tokenizer["added_tokens"]:
        token["id"] += token["id"] >= new
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": new, "content": "<|yue|>"})
    tokenizer["added_tokens"].sort(key=lambda token: token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 128}))
    return folder


@pytest.mark.model
@pytest.mark.parametrize("languages", [(), ("ko",)])
def test_a_model_of_another_size_is_served_alike(tiny_turbo, tmp_path, languages):
    engine = WhisperEngine(str(tiny_turbo), languages=languages, cache_dir=tmp_path, device="cpu")
    engine.load()

    heard = engine.transcribe(
        [
            Request(tone(2), "ko", draft=True, hotwords="청개구리"),
            Request(tone(2), "yue", draft=True, timestamps="word"),
            Request(tone(2), "auto", draft=True),
            Request(tone(2), "ko"),
        ]
    )

    assert ["ko", "yue", "ko"] == [heard[i].language for i in (0, 1, 3)]
    assert (WIDTH, 128) == (engine._silence.shape[2], engine._loaded.whisper.model.n_mels)
    assert (2 if languages else 0) <= engine.counts["whole_model"]


@pytest.mark.model
def test_greedy_the_cut_vocabulary_says_what_the_whole_one_says(engine):
    requests = [replace(request(clip), draft=True) for clip in clips("ko")]
    whole = WhisperEngine("base", languages=(), device="cpu")
    whole.load()

    expected = [transcript.text for transcript in whole.transcribe(requests)]

    assert expected == [transcript.text for transcript in engine.transcribe(requests)]


@pytest.mark.model
def test_without_a_place_for_the_cut_the_whole_model_serves(engine, tmp_path, caplog):
    file = tmp_path / "cache"
    file.write_text("not a folder")
    uncut = WhisperEngine(str(engine.fetch()), languages=("ko",), cache_dir=file, device="cpu")

    with caplog.at_level(logging.WARNING):
        uncut.load()

    assert ["The vocabulary was not cut"] == [record.message[:26] for record in caplog.records]
    [clip] = [clip for clip in clips("ko") if clip.id == "mom"]
    assert "엄마" == uncut.transcribe([request(clip)])[0].text.strip(".")


@pytest.mark.model
@pytest.mark.skipif(not (SPEECH / "manifest.tsv").is_file(), reason="needs real speech: STT_SPEECH_DIR")
def test_korean_people_are_understood_no_worse_than_by_stock_faster_whisper(engine):
    said = [clip for clip in read_manifest(SPEECH) if clip.language == "ko" and clip.kind == "human" and clip.text]
    ours, stock = Ours("base", (), None, 5), Stock(engine.fetch(), 5)

    def rates(clip: Clip) -> tuple[float, float]:
        samples = read_audio(clip.path)
        texts = ours.transcribe(samples, "ko")[0].text, stock.transcribe(samples, "ko")[0]
        return score(clip.text, texts[0], "ko").rate, score(clip.text, texts[1], "ko").rate

    with ThreadPoolExecutor(2) as threads:
        ours_mean, stock_mean = np.mean(list(threads.map(rates, said)), axis=0)

    assert ours_mean <= stock_mean + 0.005


@pytest.mark.model
def test_a_quick_look_says_when_it_doubts_and_the_second_look_is_the_careful_one(engine):
    backwards = read_audio(TEST_AUDIO / "count_to_five.wav")[::-1].copy()
    [careful] = engine.transcribe([Request(backwards, "ko")])
    [quick] = engine.transcribe([Request(backwards, "ko", quick=True)])
    assert quick.doubt is not None

    assert [careful] == engine.transcribe([Request(backwards, "ko", first=quick)])


@pytest.mark.model
def test_a_quick_look_that_is_sure_is_the_careful_one(engine):
    [mom] = [request(clip) for clip in clips("ko") if clip.id == "mom"]

    assert engine.transcribe([mom]) == engine.transcribe([Request(mom.samples, "ko", quick=True)])


@pytest.mark.model
def test_what_is_hurried_is_greedy_and_gets_no_second_look(engine: WhisperEngine) -> None:
    samples = read_audio(TEST_AUDIO / "answer_tree_frog.wav")
    [draft] = engine.transcribe([Request(samples, "ko", draft=True)])
    before = dict(engine.counts)
    [hurried] = engine.transcribe([Request(samples, "ko", hurried=True)])

    assert draft.text == hurried.text != ""
    assert before == engine.counts


@pytest.mark.parametrize(
    ("seconds", "hurried", "expected"),
    [
        (1.0, True, 1500),  # a word or two needs the whole window to end
        (1.0, False, 1500),
        (5.0, True, 750),
        (5.0, False, 1000),
        (14.0, True, 1000),  # too long for the shorter memory
        (14.0, False, 1000),
        (20.0, True, 1500),
        (20.0, False, 1500),
    ],
)
def test_what_is_hurried_gets_a_shorter_memory_where_it_fits(seconds: float, hurried: bool, expected: int) -> None:
    engine = WhisperEngine("base")
    request = Request(tone(seconds), "ko", hurried=hurried)
    frames = engine._encoder_frames(request)
    assert expected == engine._states(request, frames // 2)
    assert frames >= (350 if hurried else 400)


# ---- how likely it finds phrases ---------------------------------------------------------------------------

BOOK = PhraseBook(["청개구리", "참개구리", "황소개구리"])


def with_alternatives(clip):
    return replace(request(clip), alternatives=lambda text: {name: put_in_place(name, text) for name in BOOK.phrases})


@pytest.mark.model
def test_the_model_believes_what_was_said_and_not_what_sounds_like_it(engine: WhisperEngine) -> None:
    [clip] = [clip for clip in clips("ko") if clip.id == "answer_tree_frog"]

    [transcript] = engine.transcribe([with_alternatives(clip)])

    assert 0.0 == transcript.heard["청개구리"]
    assert max(transcript.heard["참개구리"], transcript.heard["황소개구리"]) < -2


@pytest.mark.model
def test_what_is_heard_does_not_depend_on_who_else_is_in_the_batch(engine: WhisperEngine) -> None:
    requests = [with_alternatives(clip) for clip in clips("ko")]

    alone = [engine.transcribe([one])[0] for one in requests]
    together = engine.transcribe(requests)

    assert [one.text for one in alone] == [one.text for one in together]
    for one, other in zip(alone, together, strict=True):
        assert dict(one.heard) == pytest.approx(dict(other.heard), abs=1e-4)


@pytest.mark.model
def test_asking_changes_no_text(engine: WhisperEngine) -> None:
    said = clips("ko")
    plain = [transcript.text for transcript in engine.transcribe([request(clip) for clip in said])]

    assert plain == [transcript.text for transcript in engine.transcribe([with_alternatives(clip) for clip in said])]


@pytest.mark.model
@pytest.mark.parametrize(
    "phrases",
    [
        ["sword", "bow"],
        ["Sword!", "Bow!"],
        ["SWORD", "BOW"],
        ["🗡 sword", "🏹 bow"],
        ["Pick Up The Sword!", "Pick Up The Bow!"],
        ["PICK_UP_THE_SWORD", "PICK_UP_THE_BOW"],
        ["pick, up, the sword.", "pick, up, the bow."],
    ],
)
def test_a_phrase_is_heard_whatever_its_capitals_and_marks(engine: WhisperEngine, phrases) -> None:
    written = "Pick up the sort."
    [clip] = [clip for clip in clips("en") if clip.id == "pick_up_the_sword"]
    book, [memory] = PhraseBook(phrases), engine._memories([request(clip)])
    others = book.alternatives(written)

    match = book.match(written, engine._heard(request(clip), Transcript(written, "en"), others, memory))

    assert len(others) <= 6
    assert (phrases[0], True, True) == (match.phrase, match.by_audio, match.accepted)


@pytest.mark.model
@pytest.mark.parametrize("text", ["<|endoftext|>", "🐸🐸🐸", "龍", "\u0000", "개굴" * 400, "", "Ω≈ç√"])
def test_whatever_an_alternative_is_the_text_comes(engine: WhisperEngine, text: str) -> None:
    [clip] = [clip for clip in clips("ko") if clip.id == "go_left"]
    asked = replace(request(clip), alternatives=lambda _: {"bad": text, "good": "오른쪽으로 가자"})

    [transcript] = engine.transcribe([asked])

    assert "왼쪽으로 가자" == transcript.text.rstrip(".")
    assert transcript.heard["good"] < -1
    assert transcript.heard.get("bad", -9.0) < -1
