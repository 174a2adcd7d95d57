"""Repositories of every released format, kept as they were written, and what they have to restore to."""
