"""The lean transfer path: the hot operations of S3 over an HTTP/1.1 client of our own.

A request through the S3 library costs about a millisecond of processor time, most of it in places
where nothing happens; with small files that is what a run waits for. Here those that
are sent for every object or part, and those that begin and end an upload in parts, are signed
(``signer``) and sent as they are (``pool``, ``connection``), their answers parsed strictly
(``answer``, ``error_document``). Everything else about S3 stays with the library: credentials and
their renewal, which endpoint and region a bucket has (``endpoint``), every other operation, and
these wherever something is configured that is not done here (``transport``).
"""
