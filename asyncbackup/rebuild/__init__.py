"""Rebuilding a section's database from what lies at its destination.

``section`` is the way in. From manifests it takes the newest readable
snapshot, ``contents`` where the contents of all lie. Where the manifests are
gone, ``from_objects`` asks every object what it is: ``listing`` says which there
are, ``description`` asks one of them (``hidden`` one with a hidden name),
``packs`` reads the members of packs, ``links`` finds the contents of further
names. The result is written as a new snapshot first, so that restore works
again, and then becomes the database.
"""
