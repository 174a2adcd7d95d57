"""What an endpoint supports, what is wrong with a set-up, and what to do about it.

Everything that is found is a ``Finding`` (``findings``). ``machine``, ``section`` and ``reach`` look at
this side, ``s3_*`` at an endpoint and ``folder`` at a folder, below a prefix of their own that is removed
afterwards; ``examine`` puts it together.
"""
