"""Making cuBLAS findable before CTranslate2 looks for it.

CTranslate2 (4.7.1 and newer) needs one CUDA library, cuBLAS 12, and asks the system's loader for it by name. The pip
package `nvidia-cublas-cu12` puts it where the loader does not look; loading it by path first is enough, because a
library that is loaded already is found by its name, and works where changing LD_LIBRARY_PATH would come too late.
cuBLAS asks in the same way for NVRTC, with which it compiles kernels for newer GPUs, so that goes first.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

NVRTC = ("libnvrtc.so.12",)
CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")  # in this order: the second needs the first


def preload_cublas() -> bool:
    """Load cuBLAS from its pip package; return whether it was there. Does nothing without the package."""
    _preload("nvidia.cuda_nvrtc", NVRTC)
    return _preload("nvidia.cublas", CUBLAS)


def _preload(package: str, libraries: tuple[str, ...]) -> bool:
    """Load these libraries if the package has all of them."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return False
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if sys.platform == "win32":
            os.add_dll_directory(str(Path(folder) / "bin"))
            return True
        paths = [Path(folder) / "lib" / library for library in libraries]
        if all(path.is_file() for path in paths):
            for path in paths:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return True
    return False
