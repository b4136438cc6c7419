"""The kernel's calls for mounts, without mount(8), which makes loop devices by itself and has room for few devices.

Source: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), umount2(2), loop(4), proc_pid_mountinfo(5). The numbers of the
new calls are the same on every architecture. What fails raises MountFailed with what the kernel said (the log of the
mount context too) and leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cacheengine.errors import Busy, MountFailed

_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_MOVE_FROM_EMPTY_PATH, _MOVE_BENEATH = 0x4, 0x200
_AT_FDCWD = -100
_MNT_DETACH = 2
_LOOP_CONFIGURE, _LOOP_GET_FREE = 0x4C0A, 0x4C82
_LO_READ_ONLY, _LO_AUTOCLEAR, _LO_DIRECT_IO = 1, 4, 16
_LOOP_MAJOR = 7
# fsconfig takes strings of up to 256 bytes, the last one a NUL
_LONGEST_STRING = 255

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. device: (major, minor) of the file system."""

    target: Path
    kind: str
    source: str
    device: tuple[int, int]
    options: str


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call; arguments are numbers or NUL-terminated strings. Raises OSError."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _said(context: int) -> str:
    """What the kernel has written to the log of a mount context."""
    lines = []
    with suppress(OSError):
        while True:
            lines.append(os.read(context, 4096).decode(errors="replace").strip())
    return "; ".join(line[2:] if line[1:2] == " " else line for line in lines)


def _short(path: Path, folders: dict[Path, int], stack: ExitStack) -> bytes:
    """The path, or one through an open folder where it is too long for fsconfig."""
    raw = os.fsencode(path)
    if len(raw) <= _LONGEST_STRING:
        return raw
    if path.parent not in folders:
        folders[path.parent] = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, folders[path.parent])
    return os.fsencode(f"/proc/self/fd/{folders[path.parent]}/{path.name}")


@contextmanager
def _filesystem(image: Path, devices: Sequence[Path]) -> Iterator[int]:
    """A mount of the image that has no place yet, as a file descriptor; it goes when the descriptor is closed."""
    with ExitStack() as stack:
        try:
            context = _call(_FSOPEN, b"erofs", _FSOPEN_CLOEXEC)
        except OSError as error:
            why = f"the kernel has no EROFS or we may not mount: {error.strerror}"
            raise MountFailed(f"a view of {image.name}", why, "use --backend fuse") from error
        stack.callback(os.close, context)
        folders: dict[Path, int] = {}
        try:
            _call(_FSCONFIG, context, _SET_STRING, b"source", _short(image, folders, stack), 0)
            _call(_FSCONFIG, context, _SET_FLAG, b"ro", None, 0)
            for device in devices:
                _call(_FSCONFIG, context, _SET_STRING, b"device", _short(device, folders, stack), 0)
            _call(_FSCONFIG, context, _CREATE, None, None, 0)
            mount = _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, _RDONLY | _NOSUID | _NODEV)
        except OSError as error:
            why = "; ".join(part for part in (error.strerror or str(error), _said(context)) if part)
            fix = "see `outlap doctor`; --backend fuse works everywhere"
            raise MountFailed(f"a view of {image.name} with {len(devices)} packs", why, fix) from error
        stack.callback(os.close, mount)
        yield mount


def _place(mount: int, target: Path) -> None:
    """Attach a mount at a folder; where a view stands already, beneath it, and then that one goes: no moment without."""
    raw = os.fsencode(target)
    if not is_mounted(target):
        _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, raw, _MOVE_FROM_EMPTY_PATH)
        return
    try:
        _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, raw, _MOVE_FROM_EMPTY_PATH | _MOVE_BENEATH)
        unmount(target, lazy=True)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        # before Linux 6.5, or a parent whose mounts propagate
        unmount(target, lazy=True)
        _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, raw, _MOVE_FROM_EMPTY_PATH)


def mount_erofs(image: Path, devices: Sequence[Path], target: Path) -> None:
    """Mount the image, its packs as files (Linux 6.12+). devices: in device order. Replaces what is mounted at target."""
    with _filesystem(image, devices) as mount:
        try:
            _place(mount, target)
        except OSError as error:
            raise MountFailed(
                f"the view at {target}", error.strerror or str(error), "is the folder there?"
            ) from error


def probe_erofs(image: Path, name: str) -> os.stat_result:
    """Mount an image of one pack nowhere and drop it; what it shows of the empty file `name` at its top.

    Raises MountFailed when file-backed mounts do not work.
    """
    with _filesystem(image, [image]) as mount:
        return os.stat(name, dir_fd=mount)


def probe_loop(image: Path, name: str) -> os.stat_result:
    """The same on a loop device."""
    with ExitStack() as stack:
        first, second = _loop_devices([image, image], image, stack)
        with _filesystem(first, [second]) as mount:
            return os.stat(name, dir_fd=mount)


def mount_loop(image: Path, devices: Sequence[Path], target: Path) -> None:
    """The same with a loop device for the image and each pack (Linux 5.8+); the devices free themselves on unmount."""
    with ExitStack() as stack:
        loops = _loop_devices([image, *devices], target, stack)
        mount_erofs(loops[0], loops[1:], target)


def _loop_devices(paths: Sequence[Path], what: Path, stack: ExitStack) -> list[Path]:
    try:
        return [_loop_device(path, stack) for path in paths]
    except OSError as error:
        why = f"no loop device: {error.strerror or error}"
        raise MountFailed(
            f"the view at {what}", why, "load the module loop, or use --backend fuse"
        ) from error


def _loop_device(path: Path, stack: ExitStack) -> Path:
    """Bind a loop device, read-only, direct I/O. It goes with the last who has it open (autoclear), so `stack` holds it."""
    control = os.open("/dev/loop-control", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, control)
    backing = stack.enter_context(path.open("rb"))
    block = 4096 if os.fstat(backing.fileno()).st_size % 4096 == 0 else 512
    while True:
        number = fcntl.ioctl(control, _LOOP_GET_FREE)
        device = Path(f"/dev/loop{number}")
        if not device.exists():  # a container whose /dev is not the kernel's
            os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(_LOOP_MAJOR, number))
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        # struct loop_config: fd, block_size, struct loop_info64 (flags at byte 52 of 232), 64 reserved bytes
        flags = _LO_READ_ONLY | _LO_AUTOCLEAR | _LO_DIRECT_IO
        info = struct.pack("<52xI64s64s48x", flags, os.fsencode(path)[-63:], b"")
        try:
            fcntl.ioctl(
                descriptor, _LOOP_CONFIGURE, struct.pack("<II", backing.fileno(), block) + info + bytes(64)
            )
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            continue  # another took it between the two calls
        return device


def unmount(target: Path, lazy: bool = False) -> None:
    """Detach the top mount of a folder; lazy: now, even while files are open. Raises Busy, MountFailed; none there is fine."""
    if not is_mounted(target):
        return
    if _libc.umount2(os.fsencode(target), _MNT_DETACH if lazy else 0):
        code = ctypes.get_errno()
        if code == errno.EPERM and _unmount_own_fuse(target, lazy):
            return
        if code == errno.EBUSY:
            raise Busy(
                f"the view at {target}", "files in it are open", "end their readers, or unmount it lazily"
            )
        if code != errno.EINVAL:  # else it went meanwhile
            raise MountFailed(
                f"the view at {target}", os.strerror(code), "unmounting needs the rights of mounting"
            )


def _unmount_own_fuse(target: Path, lazy: bool) -> bool:
    """Who is not root unmounts the FUSE mounts that they made through fusermount3."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(target)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _unescape(text: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), os.fsencode(text))
    return os.fsdecode(raw)


def mounts() -> list[Mount]:
    """All mounts that this process sees, in the order in which they were made."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        _, _, device, _, target, options, *_ = before.split(" ")
        kind, source, *_ = after.split(" ")
        major, minor = device.split(":")
        found.append(
            Mount(Path(_unescape(target)), kind, _unescape(source), (int(major), int(minor)), options)
        )
    return found


def resolved(target: Path) -> Path:
    """As mountinfo has it. Never touches the folder itself: its FUSE daemon may be dead."""
    folder, name = os.path.split(os.path.abspath(target))  # noqa: PTH100
    return Path(os.path.realpath(folder)) / name


def mount_at(target: Path) -> Mount | None:
    """The top mount at exactly this folder."""
    place = resolved(target)
    return next((mount for mount in reversed(mounts()) if mount.target == place), None)


def is_mounted(target: Path) -> bool:
    """Whether something is mounted at exactly this folder."""
    return mount_at(target) is not None


def mounts_below(folder: Path) -> list[Mount]:
    """Mounts at or below a folder, the last one made first: the order in which to unmount them."""
    place = resolved(folder)
    return [mount for mount in reversed(mounts()) if mount.target.is_relative_to(place)]
