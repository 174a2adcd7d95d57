"""Measurements. They run for minutes, and none of them is a test."""
