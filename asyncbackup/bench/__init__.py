"""How fast an endpoint is, measured through the store that runs use.

``schedule`` says what is measured within which limits, ``work`` are the operations, ``runner`` measures
and cleans up, ``measurement`` holds the figures, ``recommend`` draws conclusions, ``charts`` and
``report`` make a page of it.
"""
