"""The stages of a run; see the drawing in docs/design.md.

    walker ─▶ detector ─▶ [ reader ─▶ encryptor ─▶ uploader ] ─▶ recorder

Stages meet only through channels and the values of ``model`` and
``payload``; none imports another. ``transfer`` joins those in brackets, with a
``compressor`` before the encryptor and a ``packer`` behind the reader where a
section has them.
"""
