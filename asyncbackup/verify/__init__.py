"""Checking a destination against its manifests.

    manifests ──▶ expected objects ──▶ one listing ──▶ HEADs ──▶ reading ──▶ damage
    (each once)   (scratch on disk)    (existence,     (S3's     (where asked,   (with the paths
                                        size)           checksum) or needed)      and snapshots)

``section`` is the way in; ``checks`` looks at one object, ``content`` reads
one, ``summary`` is what comes out.
"""
