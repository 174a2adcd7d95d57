"""An S3 server in memory, for benchmarks and fault tests: cheap, so that a client's own costs show.

    python -m benchmarks.server --port 0 --latency-ms 30

One process, one thread, HTTP parsed by hand. It listens on 127.0.0.1 alone,
prints its address, ends by itself, and keeps all it is given, byte for byte.
What it does is S3's: user metadata are kept, conditions obeyed, parts below
5 MiB refused, SHA-256 checksums kept and composed. Signatures are accepted
unchecked. So are bodies, and ETags are numbers in the form of a multipart
object's, which nobody takes for an MD5; with ``--check-bodies`` ETags are MD5
(of the parts' MD5 for a multipart object), ``Content-MD5`` and
``x-amz-checksum-sha256`` are verified. Checksums other than SHA-256 are taken
without a look.

Side paths, which are no buckets: ``GET /_stats`` tells requests, bytes and
objects as JSON, ``DELETE /_stats`` sets the counters to zero, and ``DELETE
/_buckets/NAME`` drops a bucket with all it holds.
"""
