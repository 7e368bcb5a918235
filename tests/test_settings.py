"""Settings: from the environment and options into one checked object, or one clear sentence."""

from pathlib import Path

import pytest

from stt_core.errors import SettingsError
from stt_core.settings import Settings, check_exposure, is_loopback


def complaint(environment: dict[str, str] | None = None, **overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment or {}, **overrides)
    return str(caught.value)


def token_of(settings: Settings) -> str | None:
    return settings.token and settings.token.get_secret_value()


def test_nothing_set_means_korean_base_on_this_machine_only() -> None:
    settings = Settings.from_environment({})
    assert ("base", "ko", "127.0.0.1", 8018) == (settings.model, settings.language, settings.host, settings.port)
    assert (None, None, None) == (settings.token, settings.cache_dir, settings.debug_audio)
    check_exposure(settings)


def test_a_variable_sets_the_field_of_its_name() -> None:
    settings = Settings.from_environment(
        {
            "STT_MODEL": "large-v3-turbo",
            "STT_LANGUAGE": "auto",
            "STT_PORT": "9000",
            "STT_TOKEN": "secret",
            "STT_INSECURE": "1",
            "STT_DEBUG_AUDIO": "recordings",
            "STT_THRESHOLD": "0.4",
        }
    )
    assert ("large-v3-turbo", "auto", 9000) == (settings.model, settings.language, settings.port)
    assert "secret" == token_of(settings)
    assert settings.insecure is True
    assert Path("recordings") == settings.debug_audio
    assert 0.4 == settings.endpointing_options.threshold


def test_debug_recordings_and_repair_are_off_unless_they_are_asked_for() -> None:
    assert (None, False) == ((settings := Settings()).debug_audio, settings.repair)
    assert Settings.from_environment({"STT_DEBUG_AUDIO": "off"}).debug_audio is None
    assert Settings.from_environment({"STT_DEBUG_AUDIO": "recordings"}, debug_audio="OFF").debug_audio is None
    assert Settings.from_environment({"STT_REPAIR": "1"}).repair


def test_what_a_recording_tells_of_the_settings_is_nothing_private() -> None:
    private = {"token": "sesame", "host": "192.0.2.7", "cache_dir": "/home/me", "debug_audio": "/home/me/x"}
    told = Settings.from_environment({}, **private).recorded()
    assert 0.5 == told["threshold"]
    assert not set(private) & set(told)
    assert not any(value in str(told) for value in private.values())


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    environment = {f"STT_{name.upper()}": empty for name in Settings.model_fields}
    assert Settings() == Settings.from_environment(environment)


def test_spaces_around_a_value_do_not_count() -> None:
    assert 9000 == Settings.from_environment({"STT_PORT": " 9000 "}).port


def test_variables_of_others_are_ignored() -> None:
    assert Settings() == Settings.from_environment({"PORT": "9000", "PATH": "/bin", "stt_port": "9001"})


def test_an_override_wins_over_its_variable() -> None:
    assert 9001 == Settings.from_environment({"STT_PORT": "9000"}, port="9001").port


def test_an_override_of_none_leaves_the_variable() -> None:
    assert 9000 == Settings.from_environment({"STT_PORT": "9000"}, port=None).port


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("STT_PORT", "--port", "http"),
        ("STT_PORT", "--port", "70000"),
        ("STT_LANGUAGE", "--language", "Korean"),
        ("STT_LANGUAGE", "--language", "xx"),
        ("STT_DEVICE", "--device", "tpu"),
        ("STT_BEAM_SIZE", "--beam-size", "0"),
        ("STT_THRESHOLD", "--threshold", "1.5"),
        ("STT_INSECURE", "--insecure", "maybe"),
        ("STT_LOG_LEVEL", "--log-level", "verbose"),
        ("STT_MIN_SILENCE_DURATION_MS", "--min-silence-duration-ms", "0.5"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_variable_option_and_value(name: str, option: str, value: str) -> None:
    sentence = complaint({name: value})
    assert sentence.startswith(f"{name} ({option}): Input should be ")
    assert sentence.endswith(f", not '{value}'.")
    assert "\n" not in sentence


def test_two_bad_values_are_two_sentences_of_one_error() -> None:
    sentence = complaint({"STT_PORT": "x", "STT_DEVICE": "tpu"})
    assert "STT_PORT (--port)" in sentence
    assert "STT_DEVICE (--device)" in sentence


def test_a_long_bad_value_is_cut() -> None:
    assert len(complaint({"STT_PORT": "9" * 10_000})) < 300


@pytest.mark.parametrize("token", ["", "open sesame", "열려라-참깨", "a\nb"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    sentence = complaint(token=token)
    assert sentence.startswith("STT_TOKEN (--token): Input should be ")
    assert not token or token not in sentence


def test_a_token_is_never_shown() -> None:
    settings = Settings.from_environment({"STT_TOKEN": "secret"})
    assert "secret" not in f"{settings} {settings!r} {settings.model_dump_json()}"
    assert "secret" not in complaint({"STT_TOKEN": "secret", "STT_PORT": "x"})


def test_an_unknown_setting_is_refused() -> None:
    assert "STT_COLOUR (--colour)" in complaint(colour="red")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 9000


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described_in_a_sentence(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description is not None
    assert description.endswith(".")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_is_this_machine_only(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "fe80::1", "example.com", "localhost.example.com"])
def test_any_other_host_is_the_network(host: str) -> None:
    assert not is_loopback(host)


def test_listening_on_the_network_without_a_token_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0 .* needs a token: --token SECRET \(STT_TOKEN\)"):
        check_exposure(Settings(host="0.0.0.0"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"host": "0.0.0.0", "token": "secret"},
        {"host": "0.0.0.0", "insecure": True},
        {"host": "127.0.0.1"},
        {"host": "::1"},
    ],
)
def test_a_token_or_insecure_or_loopback_is_good_enough(overrides: dict[str, object]) -> None:
    check_exposure(Settings.from_environment({}, **overrides))
