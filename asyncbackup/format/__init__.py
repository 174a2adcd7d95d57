"""What lies at a destination, as pure functions: bytes in, bytes out, no I/O and no clock.

docs/format.md is the normative text. ``escape`` and ``keys`` name objects,
``metadata`` describes one, ``manifest`` a snapshot; ``descriptor`` and
``keyslots`` open a repository, ``envelope`` and ``range_opener`` its objects.
"""
