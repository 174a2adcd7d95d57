"""A tour through asyncbackup on this machine: ``make demo``."""
