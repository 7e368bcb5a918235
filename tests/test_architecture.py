"""Imports point one way, and importing is cheap. Read from the source, so that lazy imports count as well."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stt_core

FOLDER = Path(stt_core.__file__).parent
MODULES = {
    ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for path in sorted(FOLDER.rglob("*.py"))
    if path != FOLDER / "__init__.py"
}


def imported(tree: ast.Module) -> set[str]:
    """Everything that a module imports, lazily or not: `stt_core.audio`, `faster_whisper.utils`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(MODULES[module])}


def neighbours(module: str) -> set[str]:
    """The modules of stt_core that a module imports."""
    return {name.removeprefix("stt_core.") for name in imported(MODULES[module])} & set(MODULES)


def reachable(module: str) -> set[str]:
    found, waiting = {module}, [module]
    while waiting:
        new = neighbours(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def importers(package: str) -> set[str]:
    return {module for module in MODULES if package in packages(module)}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("fastapi", {"app", "http_api", "http_errors"}),
        ("starlette", {"app", "connection", "http_api", "http_errors"}),
        ("prometheus_client", {"metrics"}),
        ("python_multipart", {"forms"}),
        ("av", {"audio", "media"}),
        ("faster_whisper", {"engine", "models", "vad"}),  # vad: only for the path of its network
        ("ctranslate2", {"engine"}),
        ("huggingface_hub", {"models"}),
        ("onnxruntime", {"vad"}),
        ("websockets", {"client_socket"}),
        ("jellyfish", {"phrases"}),
        ("uvicorn", set()),
        ("modal", set()),
        ("local_dev", set()),
        ("modal_app", set()),
    ],
)
def test_only_its_owner_knows_a_package(package, allowed):
    assert set() == importers(package) - allowed


def test_nothing_reads_the_environment():
    readers = {
        module
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"})
        or (isinstance(node, ast.ImportFrom) and {a.name for a in node.names} & {"environ", "getenv"})
    }

    assert set() == readers


def test_imports_point_one_way():
    order = [*TopologicalSorter({module: neighbours(module) for module in MODULES}).static_order()]

    assert set(MODULES) == set(order)
    assert order.index("audio") < order.index("utterances") < order.index("session")


def test_the_session_knows_no_engine_no_clock_and_no_socket():
    known = reachable("session")

    assert set() == known & {"engine", "models", "batching", "settings", "transcriber", "app"}
    outside = set().union(*(packages(module) for module in known))
    assert set() == outside & {"asyncio", "anyio", "time", "datetime", "socket", "threading", "logging", "os"}


def test_the_engine_knows_no_session():
    assert set() == reachable("engine") & {
        "session",
        "utterances",
        "endpointing",
        "batching",
        "settings",
        "app",
    }


SERVER = {"app", "connection", "http_api", "http_errors"}  # what knows the web framework
IMPORT_ALL = f"""
import sys
HEAVY = {{"fastapi", "starlette", "faster_whisper", "ctranslate2", "onnxruntime", "av", "soundfile", "torch",
         "huggingface_hub", "uvicorn", "modal"}}
import stt_core
print("numpy" in sys.modules, sorted(HEAVY & set(sys.modules)))
for module in {sorted(set(MODULES) - SERVER)!r}:
    __import__("stt_core." + module)
    print(module, sorted(HEAVY & set(sys.modules)))
"""


def test_importing_loads_no_server_and_no_model():
    """Only the server may: a client, a doctor or a test of the core starts in a moment."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL], capture_output=True, text=True, timeout=60
    )

    assert "" == result.stderr
    package, *modules = result.stdout.splitlines()
    assert "False []" == package
    assert [f"{module} []" for module in sorted(set(MODULES) - SERVER)] == modules
