"""The catalog: one SQLite file a section that knows what was saved. The only home of SQL."""
