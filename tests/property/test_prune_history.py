"""Random histories in which snapshots are forgotten and pruned: what is kept restores, the rest is gone."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.property import test_history
from tests.prunes import forget, objects, prune


class PrunedHistory(test_history.History):
    """A history that forgets. What the catalog still needs of runs that died is needed too."""

    @precondition(lambda self: len(self.snapshots) > 1)
    @rule(data=st.data())
    def forget_and_prune(self, data: st.DataObject) -> None:
        older = sorted(self.snapshots)[:-1]
        names = data.draw(st.sets(st.sampled_from(older)))
        asyncio.run(forget(self.bench, *names))
        for name in names:
            del self.snapshots[name]
        asyncio.run(prune(self.bench, min_age_ns=0))
        assert asyncio.run(self.bench.snapshots()) == sorted(self.snapshots)
        for snapshot in self.snapshots:
            self.check(snapshot)

    @precondition(lambda self: self.snapshots)
    @rule()
    def prune_after_a_run(self) -> None:
        """After a run that changed nothing the catalog needs nothing but the last snapshot."""
        self.save(checksum=False)
        asyncio.run(prune(self.bench, min_age_ns=0))
        needed = set()
        for snapshot in self.snapshots:
            for entry in asyncio.run(self.bench.entries(snapshot)).values():
                assert entry.extent is not None
                needed.add(f"home/data/{entry.extent.run}/{entry.extent.key}")
        stored = {key for key in objects(self.bench) if "/data/" in key}
        if not self.encrypted:
            assert stored == {key for key in needed if not key.endswith("/")}
        else:
            # An encrypted section keeps an empty object for each further name.
            assert {key for key in needed if not key.endswith("/")} <= stored


class PrunedSealedHistory(PrunedHistory):
    """The same of an encrypted section."""

    encrypted = True


TestPrunedHistory = PrunedHistory.TestCase
TestPrunedHistory.settings = settings(test_history._SETTINGS, max_examples=8)
TestPrunedSealedHistory = PrunedSealedHistory.TestCase
TestPrunedSealedHistory.settings = settings(test_history._SETTINGS, max_examples=2)
