"""`python -m ticketd`: the API on HTTP_ADDR by its workers, the admin port on METRICS_ADDR by
this process, until SIGTERM or SIGINT."""

import os
import resource
import secrets
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from servicedesk.admin import AdminServer, Probes
from servicedesk.environment import Address, SettingError
from servicedesk.logs import Log, capture_library_logs
from ticketd.config import Config
from ticketd.metrics import exposition
from ticketd.server import Supervisor, Workers
from ticketd.tokens import TokenFileError, read_tokens

OPEN_FILES = 65_536


class AddressError(Exception):
    """An address cannot be listened on; the text names its variable and the reason."""

    def __init__(self, variable: str, address: Address, error: OSError) -> None:
        reason = error.strerror or str(error)
        super().__init__(
            f"{variable} {address} cannot be listened on: {reason}; "
            f"free it or set {variable} to another address"
        )


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        config = Config.from_environment(os.environ)
        if config.tokens_file is not None:
            read_tokens(config.tokens_file)
        return _serve(config)
    except SettingError as error:
        return _fail(str(error), 2)
    except TokenFileError as error:
        return _fail(f"TICKETD_TOKENS_FILE {error}", 2)
    except AddressError as error:
        return _fail(str(error), 1)


def _serve(config: Config) -> int:
    log = Log("ticketd", level=config.log_level)
    capture_library_logs(log)
    _raise_open_files()
    api = _resolve("HTTP_ADDR", config.http_address)
    with TemporaryDirectory(prefix="ticketd-metrics-") as name:
        directory = Path(name)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = name
        # The workers must agree on it; the settings have made sure that it is set in production.
        os.environ.setdefault("TICKETD_CURSOR_SECRET", secrets.token_hex(32))
        workers = Workers(directory, api, time.time)
        admin = _start_admin(config.metrics_address, workers, directory)
        try:
            log.info(
                "starting", api=str(api), admin=str(config.metrics_address), workers=config.workers
            )
            Supervisor(
                count=config.workers,
                shutdown_seconds=config.shutdown_seconds,
                address=api,
                directory=directory,
                workers=workers,
                log=log,
            ).run()
            log.info("stopped")
        finally:
            admin.close()
    return 0


def _resolve(variable: str, address: Address) -> Address:
    """The address with a number for its host, on which nobody listens.

    Workers share their port by SO_REUSEPORT, which would let a second ticketd take it as well;
    this bind does without and so finds out. Raises AddressError.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
            host, port = probe.getsockname()[:2]
    except OSError as error:
        raise AddressError(variable, address, error) from error
    return Address(host, port)


def _start_admin(address: Address, workers: Workers, directory: Path) -> AdminServer:
    probes = Probes(
        readiness=workers.checks, metrics=partial(exposition, directory), alive=workers.are_alive
    )
    try:
        return AdminServer(address, probes)
    except OSError as error:
        raise AddressError("METRICS_ADDR", address, error) from error


def _raise_open_files() -> None:
    """As many connections as the system allows; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _fail(line: str, code: int) -> int:
    print(f"error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
