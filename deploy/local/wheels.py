"""Where the wheels of the extra `local` keep their programs.

The packages are looked up and not imported: importing them has side effects, such as run-time
directories in the user's home.
"""

from importlib.util import find_spec
from pathlib import Path

from deploy.local.child import StartError


def program(package: str, pattern: str, instead: str) -> Path:
    """The one file of an installed package that matches; `instead` is what a person can do when
    there is none. Raises StartError."""
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:
        for path in sorted(Path(spec.origin).parent.glob(pattern)):
            return path
    raise StartError(
        f"the Python package {package} is not installed for this platform: "
        f"install the extra `local`, or {instead}"
    )
