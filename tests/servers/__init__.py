"""Real S3 servers for the tests: started lazily on 127.0.0.1, ended by their own process ids."""

from tests.servers.endpoint import ACCESS_KEY, SECRET_KEY, S3Endpoint
from tests.servers.launch import run_moto, run_rclone, run_seaweed

__all__ = ["ACCESS_KEY", "SECRET_KEY", "S3Endpoint", "run_moto", "run_rclone", "run_seaweed"]
