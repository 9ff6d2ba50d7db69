"""Which file system a path is on: SQLite's write-ahead log needs memory that all its readers share."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|ncpfs|afs|9p|ceph|lustre|gpfs|beegfs|glusterfs|pvfs2|orangefs|wekafs|panfs|davfs|coda"
    r"|fuse\.(?:sshfs|ceph.*|glusterfs|davfs2?|s3fs|goofys|gcsfuse|rclone|juicefs|drive|beegfs.*|lizardfs|moosefs|mfs|"
    r"smbnetfs|gvfsd-fuse|blobfuse2?|cvmfs2|vmhgfs-fuse|grpcfuse)"
)
_ESCAPED = re.compile(r"\\([0-7]{3})")  # the kernel writes blanks in a path so


def network_file_system(path: Path) -> str | None:
    """The type of the network file system that this path is on, None where it is local or not known."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return None
    return network_type(str(path.resolve()), mounts)


def network_type(path: str, mountinfo: str) -> str | None:
    """The type of the network file system that `path` is on by what the kernel says is mounted where.

    Args:
        path: absolute, without symbolic links.
        mountinfo: the text of /proc/self/mountinfo.

    Example:
        >>> mounts = '''25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
        ... 40 25 0:44 / /home rw,relatime shared:20 - nfs4 filer:/home rw,vers=4.2'''
        >>> network_type("/home/ada/history", mounts), network_type("/tmp", mounts)
        ('nfs4', None)
    """
    here, best, kind = PurePosixPath(path), -1, ""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:  # noqa: PLR2004 - the fifth is where it is mounted
            continue
        point = PurePosixPath(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        # Of two mounts at one place the later one covers the other.
        if len(point.parts) >= best and here.is_relative_to(point):
            best, kind = len(point.parts), after.split(" ")[0]
    return kind if _NETWORK.fullmatch(kind) else None
