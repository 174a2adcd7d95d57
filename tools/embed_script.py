"""Puts tools/decrypt.py into the package, from where it goes into every RESTORE.md.

Run as ``python tools/embed_script.py`` after a change of the script.
"""

from __future__ import annotations

from pathlib import Path

TOOLS = Path(__file__).parent
MODULE = TOOLS.parent / "asyncbackup" / "format" / "decrypt_script.py"

TEMPLATE = '''"""The script in RESTORE.md. Made from tools/decrypt.py by tools/embed_script.py: edit that."""

from __future__ import annotations

SCRIPT = r\'\'\'
{script}\'\'\'.lstrip()
'''


def module_text() -> str:
    """What the module has to hold."""
    return TEMPLATE.format(script=(TOOLS / "decrypt.py").read_text())


if __name__ == "__main__":
    MODULE.write_text(module_text())
