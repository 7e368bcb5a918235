"""What the doctor can find, and what it says about it in English and Korean.

A text may use the numbers of the evidence as `{name}`, with a format as in `str.format`. Each code has its section
in docs/troubleshooting.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Code = Literal[
    "encoded_audio",
    "text_as_audio",
    "wav_header",
    "float32_as_int16",
    "int16_as_float32",
    "byte_swapped",
    "misaligned",
    "odd_length",
    "stereo_as_mono",
    "sample_rate",
    "faster_than_real_time",
    "slower_than_real_time",
    "digital_silence",
    "too_quiet",
    "clipping",
    "wrap_around",
    "dc_offset",
    "noise_gate",
    "dropped_packets",
    "cut_start",
    "cut_end",
]
CODES: tuple[Code, ...] = get_args(Code)
REPAIRABLE: frozenset[Code] = frozenset({"wav_header", "byte_swapped", "misaligned"})


class Text(NamedTuple):
    """What is wrong, and what to change in the game."""

    message: str
    hint: str
    message_ko: str
    hint_ko: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the audio, with the numbers that say so."""

    code: Code
    confidence: float  # in (0, 1]; what is below 0.5 is not reported
    evidence: Mapping[str, float]  # units are in the names: `_hz`, `_s`, `_db`, `_dbfs`, `_bytes`, `_percent`

    @property
    def message(self) -> str:
        return TEXTS[self.code].message.format(**self.evidence)

    @property
    def hint(self) -> str:
        return TEXTS[self.code].hint.format(**self.evidence)

    @property
    def message_ko(self) -> str:
        return TEXTS[self.code].message_ko.format(**self.evidence)

    @property
    def hint_ko(self) -> str:
        return TEXTS[self.code].hint_ko.format(**self.evidence)

    @property
    def repairable(self) -> bool:
        """Whether the fault is certain and undoing it harms nothing: see `repair`."""
        return self.code in REPAIRABLE


TEXTS: dict[Code, Text] = {
    "encoded_audio": Text(
        "The bytes are a compressed audio file (Ogg, MP3, FLAC, AAC, MP4 or WebM), not PCM.",
        "Send the samples that FAudioCapture delivers. Do not encode them, and do not send an imported sound file.",
        "보내신 바이트는 PCM이 아니라 압축된 오디오 파일(Ogg, MP3, FLAC, AAC, MP4, WebM)입니다.",
        "FAudioCapture가 주는 샘플을 그대로 보내십시오. 압축하거나 사운드 파일을 그대로 보내면 안 됩니다.",
    ),
    "text_as_audio": Text(
        "The bytes are text ({printable_percent:.0f} % of them are printable: Base64, JSON or HTML), not PCM.",
        "Send audio with IWebSocket::Send(Data, Size, true) as raw bytes, without Base64; send JSON as a text message.",
        "보내신 바이트는 PCM이 아니라 글자({printable_percent:.0f} %, Base64·JSON·HTML 등)입니다.",
        "오디오는 Base64 없이 IWebSocket::Send(Data, Size, true)로, JSON은 텍스트 메시지로 보내십시오.",
    ),
    "wav_header": Text(
        "{headers:.0f} WAV header(s) in the audio, the first at byte {at_byte:.0f}; it says "
        "{header_sample_rate_hz:.0f} Hz, {header_channels:.0f} channel(s), {header_bits:.0f} bits.",
        "Send bare PCM: skip the header (44 bytes of SerializeWaveFile) of every buffer, and declare sample_rate, "
        "channels and encoding as the header says.",
        "오디오 안에 WAV 헤더가 {headers:.0f}개 있습니다(첫 위치 {at_byte:.0f}바이트, {header_sample_rate_hz:.0f} "
        "Hz, {header_channels:.0f}채널, {header_bits:.0f}비트).",
        "버퍼마다 헤더(SerializeWaveFile은 44바이트)를 빼고 PCM만 보내고, 헤더에 적힌 sample_rate, channels, "
        "encoding을 선언하십시오.",
    ),
    "float32_as_int16": Text(
        "The bytes are 32-bit floats, but s16le was declared ({sane_percent:.0f} % are sane floats).",
        "Declare encoding=f32le, or convert before sending: FMath::Clamp to -1..1, times 32767, to int16. The "
        "callback of FAudioCapture delivers float.",
        "32비트 실수인데 s16le로 선언되었습니다({sane_percent:.0f} %가 정상적인 실수입니다).",
        "encoding=f32le로 선언하거나, FMath::Clamp로 -1..1로 자르고 32767을 곱해 int16으로 바꿔 보내십시오. "
        "FAudioCapture 콜백은 float를 줍니다.",
    ),
    "int16_as_float32": Text(
        "The bytes are 16-bit integers, but f32le was declared ({sane_percent:.0f} % are sane floats).",
        "Declare encoding=s16le. IVoiceCapture and Pixel Streaming deliver int16.",
        "16비트 정수인데 f32le로 선언되었습니다(정상적인 실수는 {sane_percent:.0f} %뿐입니다).",
        "encoding=s16le로 선언하십시오. IVoiceCapture와 Pixel Streaming은 int16을 줍니다.",
    ),
    "byte_swapped": Text(
        "The samples are big-endian; read that way they are {gain_bits:.1f} bits a sample smoother.",
        "Send little-endian as it lies in memory: no htons, no ByteSwap, no FArchive with SetByteSwapping(true).",
        "샘플이 빅 엔디언입니다. 그렇게 읽으면 샘플당 {gain_bits:.1f}비트만큼 매끄럽습니다.",
        "메모리에 있는 리틀 엔디언 그대로 보내십시오. htons, ByteSwap, FArchive의 SetByteSwapping(true)을 쓰지 "
        "마십시오.",
    ),
    "misaligned": Text(
        "From byte {at_byte:.0f} on the samples are shifted by {skip_bytes:.0f} byte(s).",
        "Send whole samples only: Samples.Num() * sizeof(int16) bytes, no prefix byte or odd header, nothing lost "
        "between.",
        "{at_byte:.0f}바이트부터 샘플이 {skip_bytes:.0f}바이트 밀려 있습니다.",
        "온전한 샘플만 보내십시오. 크기는 Samples.Num() * sizeof(int16)이고, 앞에 붙는 바이트나 중간에 빠진 "
        "바이트가 없어야 합니다.",
    ),
    "odd_length": Text(
        "The audio ends within a sample: {left_over_bytes:.0f} byte(s) are left over.",
        "The size is in bytes: Samples.Num() * sizeof(int16), not Samples.Num(); channels must be complete as well.",
        "오디오가 샘플 중간에서 끝납니다. {left_over_bytes:.0f}바이트가 남습니다.",
        "크기는 바이트 단위입니다. Samples.Num()이 아니라 Samples.Num() * sizeof(int16)이며, 채널도 모두 있어야 "
        "합니다.",
    ),
    "stereo_as_mono": Text(
        "The samples are {likely_channels:.0f} interleaved channels, but mono was declared.",
        "Declare channels={likely_channels:.0f} (NumChannels of the FAudioCapture callback), or average them "
        "first: TSampleBuffer::MixBufferToChannels(1).",
        "{likely_channels:.0f}채널이 섞여 있는데 모노로 선언되었습니다.",
        "channels={likely_channels:.0f}(FAudioCapture 콜백의 NumChannels)로 선언하거나 먼저 "
        "TSampleBuffer::MixBufferToChannels(1)로 섞으십시오.",
    ),
    "sample_rate": Text(
        "The audio is at about {likely_sample_rate_hz:.0f} Hz, but {declared_sample_rate_hz:.0f} Hz was declared.",
        "Declare the SampleRate argument of the FAudioCapture callback; asking Windows for 16000 changes nothing. "
        "Resample 44100 Hz with Audio::Resample, never by leaving samples out.",
        "오디오는 약 {likely_sample_rate_hz:.0f} Hz인데 {declared_sample_rate_hz:.0f} Hz로 선언되었습니다.",
        "FAudioCapture 콜백의 SampleRate를 그대로 선언하십시오(Windows에 16000을 요청해도 바뀌지 않습니다). 44100 "
        "Hz는 샘플을 건너뛰지 말고 Audio::Resample로 바꾸십시오.",
    ),
    "faster_than_real_time": Text(
        "Audio arrives {speed:.2f} times as fast as it plays.",
        "Send what the microphone gives, once: a callback bound twice sends everything double; a recording belongs "
        "in one message or is paced.",
        "오디오가 재생 속도보다 {speed:.2f}배 빠르게 도착합니다.",
        "마이크 소리를 한 번만 보내십시오. 콜백이 두 번 바인딩되면 두 배로 보내집니다. 녹음 파일은 한 메시지로 "
        "보내거나 속도를 맞추십시오.",
    ),
    "slower_than_real_time": Text(
        "Audio arrives at {speed:.2f} of the speed it plays at, {messages_per_s:.0f} messages a second.",
        "Collect 50 to 100 ms in a message: Unreal up to 5.4 sends about 30 messages a second. Or set "
        "[WebSockets.LibWebSockets] ThreadTargetFrameTimeInSeconds=0.005.",
        "오디오가 재생 속도의 {speed:.2f}배로 느리게 도착합니다(초당 메시지 {messages_per_s:.0f}개).",
        "한 메시지에 50~100 ms를 모아 보내십시오. Unreal 5.4까지는 초당 약 30개만 보냅니다. 또는 "
        "[WebSockets.LibWebSockets] ThreadTargetFrameTimeInSeconds=0.005로 설정하십시오.",
    ),
    "digital_silence": Text(
        "There is no sound at all: peak {peak_dbfs:.0f} dBFS over {seconds:.1f} s. The microphone is muted or not "
        "allowed.",
        "Check the device (DeviceIndex INDEX_NONE, not 0), its mute, and permissions: Windows privacy, Android "
        "RECORD_AUDIO at run time, iOS NSMicrophoneUsageDescription.",
        "소리가 전혀 없습니다({seconds:.1f}초 동안 최대 {peak_dbfs:.0f} dBFS). 마이크가 꺼져 있거나 권한이 없습니다.",
        "장치(DeviceIndex는 0이 아니라 INDEX_NONE), 음소거, 권한(Windows 개인 정보, Android RECORD_AUDIO 실행 중 "
        "요청, iOS NSMicrophoneUsageDescription)을 확인하십시오.",
    ),
    "too_quiet": Text(
        "Speech is far too quiet: {speech_dbfs:.0f} dBFS.",
        "Raise the input level in the system's sound settings or UAudioCapture's gain; check that float samples "
        "are multiplied by 32767 only once and not divided.",
        "말소리가 너무 작습니다({speech_dbfs:.0f} dBFS).",
        "시스템 소리 설정의 입력 볼륨이나 UAudioCapture의 게인을 올리고, float 샘플에 32767을 한 번만 곱했는지 "
        "확인하십시오.",
    ),
    "clipping": Text(
        "The signal is clipped: {clipped_percent:.1f} % of the samples lie flat at the top.",
        "Lower the input level or Microphone Boost, and remove gain and per-buffer normalisation from the client.",
        "신호가 잘려 있습니다. 샘플의 {clipped_percent:.1f} %가 최대값에 붙어 있습니다.",
        "입력 볼륨이나 마이크 증폭을 낮추고, 클라이언트의 게인과 버퍼별 정규화를 없애십시오.",
    ),
    "wrap_around": Text(
        "Loud samples wrap around from the top to the bottom {wraps_per_s:.1f} times a second.",
        "Clamp before converting: int16(FMath::Clamp(x, -1.f, 1.f) * 32767.f), and remove the gain.",
        "큰 샘플이 초당 {wraps_per_s:.1f}번 최대값에서 최소값으로 뒤집힙니다.",
        "변환 전에 자르십시오: int16(FMath::Clamp(x, -1.f, 1.f) * 32767.f). 게인도 없애십시오.",
    ),
    "dc_offset": Text(
        "The signal is off centre by {offset_percent:.1f} % of full scale.",
        "Convert as signed samples (not uint16 or uint8) without adding a constant; else try another device or driver.",
        "신호의 중심이 최대값의 {offset_percent:.1f} %만큼 벗어나 있습니다.",
        "상수를 더하지 말고 부호 있는 샘플로 변환하십시오(uint16·uint8 아님). 그래도 같으면 다른 장치나 "
        "드라이버를 써 보십시오.",
    ),
    "noise_gate": Text(
        "A noise gate eats the quiet parts: {cuts_per_s:.1f} times a second the sound is cut off.",
        "Set voice.SilenceDetectionThreshold and voice.MicNoiseGateThreshold to 0, or use FAudioCapture instead of "
        "IVoiceCapture; send pauses too.",
        "노이즈 게이트가 조용한 부분을 잘라냅니다. 초당 {cuts_per_s:.1f}번 소리가 끊깁니다.",
        "voice.SilenceDetectionThreshold와 voice.MicNoiseGateThreshold를 0으로 하거나 IVoiceCapture 대신 "
        "FAudioCapture를 쓰고, 말이 없는 부분도 보내십시오.",
    ),
    "dropped_packets": Text(
        "Pieces of audio are missing: breaks at multiples of {packet_ms:.1f} ms, about {breaks_per_s:.1f} a second.",
        "Keep captured audio in a ring buffer until it is sent, watch bOverflow, and send 50 to 100 ms a message "
        "from the game thread.",
        "오디오가 중간중간 빠져 있습니다. {packet_ms:.1f} ms 단위로 초당 약 {breaks_per_s:.1f}번 끊깁니다.",
        "보낼 때까지 링 버퍼에 모아 두고 bOverflow를 확인하며, 게임 스레드에서 50~100 ms씩 보내십시오.",
    ),
    "cut_start": Text(
        "The audio begins in the middle of speech ({edge_db:.0f} dB below its loudest): the first syllable may be "
        "missing.",
        "Keep the capture stream open and send the 300 ms before the key was pressed.",
        "오디오가 말하는 도중에 시작됩니다(가장 큰 소리보다 {edge_db:.0f} dB 작음). 첫 음절이 빠졌을 수 있습니다.",
        "캡처 스트림을 계속 열어 두고, 키를 누르기 전 300 ms부터 보내십시오.",
    ),
    "cut_end": Text(
        "The audio ends in the middle of speech ({edge_db:.0f} dB below its loudest): the last syllable may be "
        "missing.",
        "After the key is released, send another 250 ms before flush.",
        "오디오가 말하는 도중에 끝납니다(가장 큰 소리보다 {edge_db:.0f} dB 작음). 마지막 음절이 빠졌을 수 있습니다.",
        "키를 놓은 뒤 250 ms를 더 보내고 flush를 보내십시오.",
    ),
}
