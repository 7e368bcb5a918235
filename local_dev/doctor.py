"""`doctor FILE`: what is wrong with a recording, and a picture of it with the trouble marked.

A WAV file is believed to be what its header says, unless something else is declared: then its samples are taken as
what a client sent under that declaration. Any other file is raw PCM as declared, as a client sends it.

`--transcript` lets the model listen: to the bytes as they are, and to what a server with `repair` would hear.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from local_dev.live_server import extra
from stt_core.audio import AudioFormat, Encoding, PcmDecoder, Samples, is_wav
from stt_core.checkup import Repair
from stt_core.diagnosis import Finding, diagnose, repair
from stt_core.diagnosis.encoding import Reading, decode, find_wav_headers, without_headers
from stt_core.diagnosis.signal import Signal
from stt_core.errors import AudioError, SettingsError
from stt_core.settings import Settings

MAX_BYTES = 256 << 20
MAX_MARKS = 60


def run_doctor(
    file: Path,
    *,
    out: Path | None = None,
    sample_rate: int | None = None,
    channels: int | None = None,
    encoding: Encoding | None = None,
    korean: bool = False,
    picture: bool = True,
    repair_to: Path | None = None,
    transcript: bool = False,
    language: str | None = None,
    listen: Callable[[Samples], str] | None = None,
    console: Console | None = None,
) -> int:
    """Print the findings and save the picture; return the exit code: 0 healthy, 3 something was found.

    Args:
        file: a WAV file, or raw PCM.
        out: the picture; otherwise the file's name with `.doctor.png`, beside it.
        sample_rate: declared, in Hz; otherwise the header's, or 16000.
        channels: declared; otherwise the header's, or 1.
        encoding: declared; otherwise the header's, or s16le.
        korean: print the Korean texts.
        picture: save one at all.
        repair_to: write the bytes there, without what is certain and harmless to undo.
        transcript: print what the model hears, without and with the repair.
        language: of the speech; otherwise that of the settings.
        listen: instead of the model, (n,) samples at 16 kHz to text.

    Raises:
        AudioError: there is no such file, it is too large, or what is declared is not taken.
    """
    console = console or Console(soft_wrap=True)
    if not file.is_file():
        raise AudioError(f"There is no file at {file}.")
    if file.stat().st_size > MAX_BYTES:
        raise AudioError(f"{file} is larger than {MAX_BYTES >> 20} MiB; give the doctor a piece of it.")
    data = file.read_bytes()
    data, audio_format = _declared(data, sample_rate, channels, encoding)
    findings = diagnose(data, audio_format)

    shown = f"{audio_format.sample_rate} Hz, {audio_format.channels} channel(s), {audio_format.encoding}"
    console.print(f"{file.name}: {audio_format.duration_s(len(data)):.2f} s as {shown}", markup=False)
    for finding in findings:
        message, hint = (finding.message_ko, finding.hint_ko) if korean else (finding.message, finding.hint)
        console.print(f"- {finding.code} ({finding.confidence:.2f}): {message}\n  {hint}", markup=False)
    if not findings:
        console.print("- " + ("이상이 없습니다." if korean else "Nothing is wrong with it."), markup=False)
    if transcript:
        listen = listen or model(language)
        as_sent, mended = heard(data, audio_format), heard(Repair().mended(data, audio_format), audio_format)
        nothing = "(없음)" if korean else "(nothing)"
        sentences = ("모델이 듣는 말: ", "바로잡은 뒤: ") if korean else ("The model hears: ", "With the repair: ")
        console.print(sentences[0] + (listen(as_sent) or nothing), markup=False)
        if any(finding.repairable for finding in findings):
            console.print(sentences[1] + (listen(mended) or nothing), markup=False)
    if repair_to:
        repair_to.write_bytes(repaired(data, findings))
        console.print(f"Repaired bytes written to {repair_to}", markup=False)
    if picture:
        target = out or file.with_name(file.name + ".doctor.png")
        try:
            draw(data, audio_format, findings, f"{file.name} as {shown}").savefig(target, dpi=80)
            console.print(f"Written to {target}", markup=False)
        except SettingsError as error:
            console.print(f"There is no picture: {error}", markup=False)
    return 3 if findings else 0


def _declared(
    data: bytes, sample_rate: int | None, channels: int | None, encoding: Encoding | None
) -> tuple[bytes, AudioFormat]:
    """What a client would have sent, and under which declaration."""
    given = AudioFormat(sample_rate or 16_000, channels or 1, encoding or "s16le")
    headers = find_wav_headers(data[: 1 << 16]) if is_wav(data) else []
    if not headers:
        return data, given
    [header, *_] = headers
    encodings: dict[tuple[int, bool], Encoding] = {(16, False): "s16le", (32, True): "f32le"}
    own = encodings.get((header.bits, header.is_float))
    if own is None or header.at_byte:
        return data, given  # the doctor says what the header declares
    believed = AudioFormat(sample_rate or header.sample_rate, channels or header.channels, encoding or own)
    size = int.from_bytes(data[header.header_bytes - 4 : header.header_bytes], "little")
    body = data[header.header_bytes :]
    return body[:size] if 0 < size <= len(body) else body, believed


def model(language: str | None) -> Callable[[Samples], str]:
    """The model of the settings, loaded.

    Raises:
        ModelError: it cannot be found or loaded.
    """
    from stt_core.transcriber import Transcriber

    settings = Settings.from_environment(os.environ, language=language)
    transcriber = Transcriber(
        settings.model, language=settings.language, cache_dir=settings.cache_dir, device=settings.device
    )
    return lambda samples: transcriber.transcribe(samples).text


def heard(data: bytes, audio_format: AudioFormat) -> Samples:
    """The bytes as the server decodes them."""
    decoder = PcmDecoder(audio_format)
    return np.concatenate([decoder.decode(data), decoder.finish()])


def draw(data: bytes, audio_format: AudioFormat, findings: Sequence[Finding], title: str) -> Any:
    """Waveform above spectrogram, as the server would hear it, with what was found marked; a matplotlib figure."""
    figure = extra("matplotlib.figure").Figure(figsize=(11, 5.2), layout="constrained")
    body = without_headers(data, find_wav_headers(data))
    samples = decode(body, Reading(audio_format.encoding))
    samples = np.clip(samples[:: audio_format.channels], -1, 1)
    wave, spectrum = figure.subplots(2, 1, sharex=True)
    codes = ", ".join(f"{finding.code} ({finding.confidence:.2f})" for finding in findings) or "nothing found"
    figure.suptitle(f"{title}\n{codes}", fontsize=10)
    if len(samples) < 1024:
        wave.text(0.5, 0.5, "too short to draw", transform=wave.transAxes, ha="center")
        return figure
    rate = audio_format.sample_rate
    time_s = np.arange(len(samples)) / rate
    wave.plot(time_s, samples, linewidth=0.4, color="#345")
    wave.set_ylim(-1.05, 1.05)
    wave.set_ylabel("full scale")
    window = 512 if rate <= 24_000 else 1024
    noise = 1e-6 * np.random.default_rng(0).standard_normal(len(samples))  # the logarithm of silence
    spectrum.specgram(samples + noise, NFFT=window, Fs=rate, noverlap=window // 2, vmin=-140, vmax=-30, cmap="magma")
    spectrum.set_ylabel("Hz")
    spectrum.set_xlabel("seconds, as declared")
    for finding in findings:
        for at_s in marks(finding, samples, audio_format):
            for axis in (wave, spectrum):
                axis.axvline(at_s, color="#e22", linewidth=0.8, alpha=0.7)
        if finding.code == "dc_offset":
            wave.axhline(finding.evidence["offset_percent"] / 100, color="#e22", linewidth=0.8)
    return figure


def marks(finding: Finding, samples: np.ndarray[Any, Any], audio_format: AudioFormat) -> list[float]:
    """Where in the audio a finding shows, in seconds; at most 60 places."""
    rate, end_s = audio_format.sample_rate, len(samples) / audio_format.sample_rate
    if finding.code in ("misaligned", "wav_header"):
        return [audio_format.duration_s(int(finding.evidence["at_byte"]))]
    if finding.code == "cut_start":
        return [0.0]
    if finding.code in ("cut_end", "odd_length"):
        return [end_s]
    at = np.zeros(0, int)
    if finding.code == "clipping":
        at = np.flatnonzero(np.abs(samples) >= 0.97 * np.abs(samples).max())
    elif finding.code == "wrap_around":
        at = np.flatnonzero(np.abs(np.diff(samples)) > 1.2)
    elif finding.code in ("dropped_packets", "noise_gate"):
        signal = Signal(samples, rate)
        sounding = signal.levels > signal.loud - 40
        ends = np.flatnonzero(signal.still[1:] & sounding[:-1])  # sound that breaks off into zeros
        at = signal.frame * (ends + 1)
        if finding.code == "dropped_packets" and not len(at):
            packet = max(1, round(finding.evidence["packet_ms"] * rate / 1000))
            borders = np.arange(packet, len(signal.spikes), packet)
            at = borders[signal.spikes[borders] >= 3.5]
    apart = at[np.r_[True, np.diff(at) > rate // 50]] if len(at) else at
    return [float(index) / rate for index in apart[:: max(1, -(-len(apart) // MAX_MARKS))]]


def repaired(data: bytes, findings: Sequence[Finding]) -> bytes:
    """The bytes with everything undone that is certain and harmless to undo."""
    for finding in findings:
        if finding.repairable:
            data = repair(data, finding)
    return data
