"""A real S3 server with a bucket, and the client of another house for it: what boto3 sees there is
what is there."""

import secrets
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config

from deploy.local.ports import free_port
from deploy.local.s3 import ACCESS_KEY, PORT_NAMES, S3

SECRET_KEY = secrets.token_urlsafe(24)


def new_s3(directory: Path) -> S3:
    """Not started."""
    directory.mkdir(exist_ok=True)
    ports: dict[str, int] = {}
    for name in PORT_NAMES:
        ports[name] = free_port(ports.values())
    return S3(
        directory=directory / "data", ports=ports, secret_key=SECRET_KEY, log=directory / "s3.log"
    )


class Storage:
    """A bucket, and the settings that lead a ticketd to it."""

    def __init__(self, server: S3, bucket: str) -> None:
        self.server = server
        self.bucket = bucket
        self.settings = {
            "S3_ENDPOINT": server.url(),
            "S3_BUCKET": bucket,
            "S3_ACCESS_KEY": ACCESS_KEY,
            "S3_SECRET_KEY": SECRET_KEY,
        }
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=server.url(),
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    def create(self) -> Self:
        self.client.create_bucket(Bucket=self.bucket)
        return self

    def remove(self) -> None:
        """With everything in it: each bucket takes a tenth of the server's volumes."""
        for key in self.keys():
            self.client.delete_object(Bucket=self.bucket, Key=key)
        self.client.delete_bucket(Bucket=self.bucket)

    def keys(self) -> list[str]:
        """Of every object of the bucket."""
        found = self.client.list_objects_v2(Bucket=self.bucket)
        return [entry["Key"] for entry in found.get("Contents", ())]

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content
