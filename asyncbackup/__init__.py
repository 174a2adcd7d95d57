"""asyncbackup: back up folders to S3 and restore them."""

__version__ = "0.1.0"
