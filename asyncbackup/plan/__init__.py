"""What a run would do and cost, without sending a request: the dry run, counted and priced.

``shape`` counts what a run would look at, ``sample`` finds out how well it compresses, ``forecast``
makes objects and requests of it for each layout, ``prices`` and ``cost`` money, ``section`` all of it
for one section.
"""
