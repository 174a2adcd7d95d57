"""The repository: what a destination holds beside the objects of runs, and how to open it."""
