"""Making cuBLAS findable before CTranslate2 looks for it.

CTranslate2 (4.7.1 and newer) needs one CUDA library, cuBLAS 12, and asks the system's loader for it. The pip
package `nvidia-cublas-cu12` puts it where the loader does not look; loading it by path first is enough, and
works where changing LD_LIBRARY_PATH would come too late.
"""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

LIBRARIES = ("libcublasLt.so.12", "libcublas.so.12")  # in this order: the second needs the first


def preload_cublas() -> bool:
    """Load cuBLAS from its pip package; return whether it was there. Does nothing without the package."""
    try:
        spec = importlib.util.find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        return False
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if sys.platform == "win32":
            os.add_dll_directory(str(Path(folder) / "bin"))
            return True
        paths = [Path(folder) / "lib" / library for library in LIBRARIES]
        if all(path.is_file() for path in paths):
            for path in paths:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return True
    return False
