"""Audio files become samples, piece by piece and within bounds.

A file that is uploaded is a stranger's. It may be no audio at all, lie about its length, unpack to a thousand times
its size, or be a playlist that makes FFmpeg open other files and addresses. So only self-contained formats are
tried, whatever the file is called; its length is counted while it is decoded; and no more than a piece of it is in
memory at a time. What is damaged inside is left out, as players do.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, BinaryIO

import numpy as np

from stt_core.audio import AudioFormat, PcmDecoder, Samples
from stt_core.errors import AudioError

# FFmpeg's names of the formats: none of them refers to other files.
DEMUXERS = "wav,w64,mp3,ogg,flac,mov,matroska,aac,aiff,caf,amr"
READABLE = "wav, mp3, ogg, flac, m4a, mp4 or webm"
PIECE_S = 10.0  # of audio that is decoded at a time


def decode_file(file: BinaryIO, *, max_duration_s: float) -> Generator[Samples]:
    """The pieces of an audio file, (n,) float32 at 16 kHz mono, n at most about `PIECE_S`; blocking.

    Args:
        file: anything that PyAV reads and that can be sought; from a video, its first audio track.
        max_duration_s: of audio, whatever the file says of itself.

    Raises:
        AudioError: this is no audio, holds none, or is too long.
    """
    import av

    try:
        container = av.open(
            file,
            mode="r",
            metadata_errors="ignore",
            options={"format_whitelist": DEMUXERS, "protocol_whitelist": "none"},
        )
    except (av.error.FFmpegError, ValueError):
        raise AudioError(f"The file is not audio that can be read: expected {READABLE}.") from None
    with closing(container):
        if not container.streams.audio:
            raise AudioError(f"The file has no audio track: expected {READABLE}.")
        if container.duration is not None and container.duration / av.time_base > max_duration_s:
            raise _too_long(max_duration_s)
        yield from _decode(container, max_duration_s)


def _decode(container: Any, max_duration_s: float) -> Iterator[Samples]:
    decoder: PcmDecoder | None = None
    pending: list[Samples] = []  # of the decoder's sample rate; many small frames are resampled at once
    pending_s = duration_s = 0.0
    for frame in _frames(container):
        AudioFormat(frame.sample_rate, frame.layout.nb_channels)  # refuses what no recording has
        mono = AudioFormat(frame.sample_rate, 1, "f32le")
        if decoder is None or decoder.format != mono:  # a stream may change its format on the way
            if decoder is not None:
                yield np.concatenate([_resampled(decoder, pending), decoder.finish()])
            decoder, pending, pending_s = PcmDecoder(mono), [], 0.0
        duration_s += frame.samples / frame.sample_rate
        pending_s += frame.samples / frame.sample_rate
        if duration_s > max_duration_s:
            raise _too_long(max_duration_s)
        pending.append(_downmix(frame))
        if pending_s >= PIECE_S:
            yield _resampled(decoder, pending)
            pending, pending_s = [], 0.0
    if decoder is None:
        raise AudioError("The file holds no audio that can be decoded.")
    yield np.concatenate([_resampled(decoder, pending), decoder.finish()])


def _resampled(decoder: PcmDecoder, pending: list[Samples]) -> Samples:
    return decoder.decode(b"".join(samples.tobytes() for samples in pending))


def _frames(container: Any) -> Iterator[Any]:
    """The frames of the first audio track that can be decoded."""
    import av

    packets = container.demux(container.streams.audio[0])
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # cut off in the middle: what came before is worth hearing
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames


def _downmix(frame: Any) -> Samples:
    """(n,) float32, the mean of the channels; the samples may be integers of any width."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype.kind == "u":
        array = array.astype(np.float32) / 128 - 1
    elif array.dtype.kind == "i":
        array = array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    return np.asarray(np.clip(np.nan_to_num(array), -1, 1).mean(axis=0), "<f4")


def _too_long(max_duration_s: float) -> AudioError:
    return AudioError(f"The audio is longer than {max_duration_s:g} s, the most that is taken: split it.")
