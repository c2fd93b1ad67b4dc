"""Shared stores for the tests: a bucket of a real S3 server on the loopback, or a folder."""

import itertools
import shutil
from pathlib import Path
from typing import Any, Protocol


class Store(Protocol):
    """What is in a store, seen past the registry."""

    url: str

    def objects(self) -> list[str]:
        """The key of every object below `url`, sorted."""

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, content: bytes) -> None: ...

    def delete(self, key: str) -> None: ...

    def vanish(self) -> None:
        """The bucket or folder is gone, with all that is in it."""

    def come_back(self) -> None:
        """It is there again, empty."""


class S3Server:
    """moto's server on a free port; `environment` is what its clients need to have."""

    def __init__(self) -> None:
        import boto3

        self._port = 0
        self.start()
        host, self._port = self._server.get_host_and_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{self._port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "lorikeet",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        self._names = itertools.count()
        self._client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="another",
            aws_secret_access_key="one",
        )

    def start(self) -> None:
        """Start it, again on the same port; what it keeps is this process's."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Stop it."""
        self._server.stop()

    def bucket(self) -> "Bucket":
        """A new bucket."""
        name = f"lorikeet-{next(self._names)}"
        self._client.create_bucket(Bucket=name)
        return Bucket(self._client, name)


class Bucket:
    """A bucket, by another client than the registry's."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self.name = client, name
        self.url = f"s3://{name}/team"

    def objects(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return sorted(each["Key"].removeprefix("team/") for each in found)

    def read(self, key: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=self.name, Key=f"team/{key}")["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self.name, Key=f"team/{key}", Body=content)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=f"team/{key}")

    def vanish(self) -> None:
        for key in self.objects():
            self.delete(key)
        self._client.delete_bucket(Bucket=self.name)

    def come_back(self) -> None:
        self._client.create_bucket(Bucket=self.name)


class Folder:
    """A folder that is a store."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._path = path
        self.url = path.as_uri()

    def objects(self) -> list[str]:
        files = (path for path in self._path.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self._path)) for path in files)

    def read(self, key: str) -> bytes:
        return (self._path / key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        (self._path / key).parent.mkdir(parents=True, exist_ok=True)
        (self._path / key).write_bytes(content)

    def delete(self, key: str) -> None:
        (self._path / key).unlink()

    def vanish(self) -> None:
        shutil.rmtree(self._path)

    def come_back(self) -> None:
        self._path.mkdir()
