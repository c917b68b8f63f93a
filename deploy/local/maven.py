"""Jars of Java programs: fetched once by Maven from a pinned pom.xml, kept in the user's cache.

A set of jars is known by the hash of its pom.xml, so another version never meets the old jars.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.child import StartError

FETCH_SECONDS = 900
JAVA_SECONDS = 30
OLDEST_JAVA = 17
REASON_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Jars:
    """The run-time jars of one pom.xml. `name` is what a person calls the program, `instead` what
    they can do without Java."""

    name: str
    pom: Path
    cache: Path
    instead: str

    @property
    def directory(self) -> Path:
        digest = hashlib.sha256(self.pom.read_bytes()).hexdigest()[:16]
        return self.cache / f"{self.pom.parent.name}-{digest}"

    @property
    def classpath(self) -> str:
        return f"{self.directory}/*"

    def missing(self) -> str:
        """What the machine lacks to fetch and run them, in one line; "" when nothing."""
        lacks = []
        if java_version() < OLDEST_JAVA:
            lacks.append(
                f"Java {OLDEST_JAVA} or newer (Debian: openjdk-{OLDEST_JAVA}-jre-headless)"
            )
        if not self.directory.exists() and shutil.which("mvn") is None:
            lacks.append("Maven (Debian: maven)")
        return f"{self.name} needs {' and '.join(lacks)}; {self.instead}" if lacks else ""

    def fetch(self, say: Callable[[str], None]) -> None:
        """Does nothing when they are there; processes that come together fetch them once.

        Raises StartError. Blocks for as long as Maven loads, which is said.
        """
        if missing := self.missing():
            raise StartError(missing)
        if self.directory.exists():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.directory.exists():
                say(f"fetching {self.name} with Maven, once (about 50 MB)")
                self._load()

    def _load(self) -> None:
        half = Path(tempfile.mkdtemp(dir=self.cache))
        command = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "-f", str(self.pom)]
        command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        command += [f"-DoutputDirectory={half / 'jars'}"]
        try:
            # A target/ beside the pom would be made in the working tree otherwise.
            done = subprocess.run(
                command,
                cwd=half,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
            )
            if done.returncode != 0:
                raise StartError(f"Maven could not fetch {self.name}: {reason(done.stdout)}")
            (half / "jars").rename(self.directory)
        except subprocess.TimeoutExpired as error:
            raise StartError(f"Maven did not fetch {self.name} in {FETCH_SECONDS} s") from error
        finally:
            shutil.rmtree(half, ignore_errors=True)


def cache_directory(values: Mapping[str, str]) -> Path:
    """Of the environment's user, as the XDG Base Directory Specification has it."""
    cache = values.get("XDG_CACHE_HOME")
    home = values.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - HOME may be unset
    return (Path(cache) if cache else Path(home) / ".cache") / "servicedesk-lite" / "jars"


def java_version() -> int:
    """The major version of `java` on the path, 0 when there is none."""
    java = shutil.which("java")
    if java is None:
        return 0
    try:
        told = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=JAVA_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 0
    found = re.search(r'version "(\d+)', told.stderr)
    return int(found[1]) if found else 0


def reason(output: str) -> str:
    """The first lines that Maven calls errors; hints for its users come behind them."""
    errors = [line.replace("[ERROR]", "").strip() for line in output.splitlines()]
    told = [line for line in errors if line]
    return " ".join(told[:REASON_LINES]) or "it said nothing"
