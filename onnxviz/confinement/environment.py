"""Which environment variables a process that opens strangers' models is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

KEPT = (
    # where programs and libraries lie
    "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH",
    # language and time zone of messages
    "LANG", "LANGUAGE", "TZ", "LC_*",
    # how many threads, and where they run
    "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "VECLIB_*", "NUMEXPR_*",
    # which GPU, and how it is used
    "CUDA_*", "NVIDIA_*", "CUBLAS_*", "CUDNN_*", "NVRTC_*",
    # how the libraries compute and allocate
    "TORCH_*", "PYTORCH_*", "ATEN_*", "ORT_*", "MALLOC_*",
    # how Python finds its modules and writes text
    "PYTHONHASHSEED", "PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONNOUSERSITE", "PYTHONUSERBASE",
    "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX",
    "PYTHONWARNINGS", "PYTHONFAULTHANDLER", "PYTHONMALLOC", "VIRTUAL_ENV", "CONDA_PREFIX",
    # which folder is the home that must not be read
    "HOME", "USER", "LOGNAME",
    # settings of onnxviz itself
    "ONNXVIZ_*",
    # without these Windows starts no process, or finds no folder for temporary files
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERPROFILE",
    "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
)  # fmt: skip
"""Names, and with a star beginnings of names, in capitals; everything else is left out. TMPDIR is not here: the caller
names a folder that may be written."""

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|COOKIE|AUTH|PRIVATE|(^|_)API(_|$)|KEY(S|ID)?(_|$)")
_SECRET_VALUE = re.compile(r"://[^/\s]*@")
"""An address with a user's name or password in it."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process which opens strangers' models is given, of name -> value.

    These are those of `KEPT` that look like no secret, by name or by an address with a password.
    """
    return {
        name: value
        for name, value in environment.items()
        if _is_kept(name.upper()) and not _is_secret(name.upper(), value)
    }


def _is_kept(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in KEPT)


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value))
