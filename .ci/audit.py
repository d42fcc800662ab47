"""Known vulnerabilities of the versions that constraints.txt pins, by pip-audit, where its service can be reached.

    python .ci/audit.py

Exit status 1 if there is one. Where the service cannot be reached, or is a mirror without advisories, pip-audit finds
nothing: so a release that is known to be vulnerable is asked about first, and without an answer a line says "skipped".
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

_ROOT = Path(__file__).resolve().parent.parent
_VULNERABLE = "pillow==9.0.0"  # CVE-2022-22817 and others


def audit(requirements: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs pip-audit, which ends with status 1 if it finds something, or if it fails."""
    command = (sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--disable-pip", *options)
    return subprocess.run(
        [*command, "--requirement", str(requirements)], capture_output=True, text=True, check=False, timeout=600
    )


def main() -> int:
    """Audits, and returns the exit status."""
    with TemporaryDirectory() as folder:
        known = Path(folder) / "known.txt"
        known.write_text(f"{_VULNERABLE}\n")
        if "CVE-2022-22817" not in audit(known, "--no-deps", "--desc", "off", "--aliases", "on").stdout:
            print(f"pip-audit: skipped: no service here knows the vulnerabilities of {_VULNERABLE}")
            return 0
    done = audit(_ROOT / "constraints.txt", "--require-hashes")
    print(done.stdout + done.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
