"""An ARM64 Python of Debian in a folder, and the command that runs it by QEMU, for tests of wheels."""

from __future__ import annotations

import subprocess
from pathlib import Path

RELEASES = {"3.11": "bookworm", "3.13": "trixie"}  # Debian's releases, by the Python that they have
# What ONNX Runtime reads to learn about the processor. QEMU 7 shows the file of the x86 machine, and ONNX Runtime
# then crashes. A file of this name below QEMU's folder takes its place.
_CPUINFO = "processor\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n\n"


def install_python(version: str, folder: Path) -> None:
    """Downloads the packages of Debian with a Python and what it needs, and unpacks them into a folder."""
    state = folder.parent / f"{folder.name}-apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian "
        f"{RELEASES[version]} main\n"
    )
    options = {
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": state / "lists",
        "Dir::State::Status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "--quiet=2", "--assume-yes", *(f"--option={name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "--download-only", f"python{version}", "libstdc++6"], check=True)
    for archive in (state / "cache/archives").glob("*.deb"):
        # As with /bin and /lib of a Debian system, which are links into /usr.
        for name in ("bin", "lib", "sbin"):
            (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                (folder / name).symlink_to(f"usr/{name}")
        subprocess.run(
            f"dpkg-deb --fsys-tarfile {archive} | tar --extract --keep-directory-symlink --directory {folder}",
            shell=True,
            check=True,
        )
    (folder / "proc").mkdir(exist_ok=True)
    (folder / "proc/cpuinfo").write_text("".join(_CPUINFO.format(core) for core in range(2)))


def command(version: str, folder: Path, packages: Path) -> list[str]:
    """The command that runs an installed Python with the packages of a folder."""
    qemu = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(folder), "-E", f"PYTHONPATH={packages}"]
    return [*qemu, str(folder / f"usr/bin/python{version}")]
