"""How each server is started. All listen on 127.0.0.1 alone and keep their data below a given folder."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.endpoint import ACCESS_KEY, SECRET_KEY, S3Endpoint
from tests.servers.process import ServerProcess, binary, free_ports


@contextmanager
def run_rclone(folder: Path) -> Iterator[tuple[S3Endpoint, ServerProcess]]:
    """``rclone serve s3``: light and deliberately weak. Objects are plain files below ``folder/data``."""
    data = folder / "data"
    data.mkdir(parents=True)
    (port,) = free_ports(1)
    command = [binary("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", str(folder / "none.conf"), str(data)]
    with _running("rclone", command, port, folder) as running:
        yield running


@contextmanager
def run_moto(folder: Path) -> Iterator[tuple[S3Endpoint, ServerProcess]]:
    """``moto_server``: the object semantics of AWS, in memory; signatures are not checked."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    with _running(
        "moto", [binary("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, folder
    ) as running:
        yield running


@contextmanager
def run_seaweed(folder: Path) -> Iterator[tuple[S3Endpoint, ServerProcess]]:
    """SeaweedFS: signatures, checksums and conditional writes are checked. About 120 MB of memory."""
    data = folder / "data"
    data.mkdir(parents=True)
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc"]
    names += ["volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    names += ["admin.port", "admin.port.grpc"]
    ports = free_ports(len(names))
    command = [binary("weed"), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    # Every bucket takes volumes of its own, and by itself the server makes some hundred at the most.
    command.append("-volume.max=10000")
    command += [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
    command += [
        "-master.telemetry=false",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
    ]
    env = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }
    try:
        with _running("seaweed", command, ports[0], folder, env) as (endpoint, process):
            # The gateway answers before the volume server has joined; a write tells.
            process.wait_ready(lambda: _writable(endpoint))
            yield endpoint, process
    finally:
        # It puts a socket a port into /tmp, wherever its own folder is, and leaves some behind.
        for port in ports:
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)


@contextmanager
def _running(
    name: str, command: list[str], port: int, folder: Path, env: dict[str, str] | None = None
) -> Iterator[tuple[S3Endpoint, ServerProcess]]:
    endpoint = S3Endpoint(name=name, url=f"http://127.0.0.1:{port}")
    process = ServerProcess(command, log=folder / f"{name}.log", env=env)
    try:
        process.wait_ready(lambda: _answers(endpoint.url))
        yield endpoint, process
    finally:
        process.stop()


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as refused:
        refused.close()
        return True
    except OSError:
        return False


def _writable(endpoint: S3Endpoint) -> bool:
    client = endpoint.client()
    try:
        bucket = "ready"
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
        client.delete_object(Bucket=bucket, Key="ready")
        client.delete_bucket(Bucket=bucket)
    except Exception:  # noqa: BLE001 - whatever is wrong: not ready yet
        return False
    finally:
        client.close()
    return True
