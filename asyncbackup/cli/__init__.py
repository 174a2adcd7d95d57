"""The command line: parse, call the engine, show what happens, map results to exit codes.

``app`` holds the group and ``main``; a module a group of commands stands
beside it. Everything heavy (engine, store, rich) is imported inside commands,
so that ``--help`` and mistakes answer at once.
"""
