"""Retention: which snapshots to keep, and deleting what none of them needs.

``policy`` decides, ``forget`` marks, ``section`` deletes (docs/format.md,
"Forgetting and pruning").
"""
