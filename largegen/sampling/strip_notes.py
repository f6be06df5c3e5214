"""How far each of several processes is in a step: a note for each, in the header of the file that they share."""

import hashlib
import struct
import zlib
from dataclasses import astuple, dataclass

from largegen.sampling.rows import NOTE_BYTES, NOTES, FileRows

FORM = struct.Struct("<5q16s")  # and a checksum, so that half a note is none


@dataclass(frozen=True)
class StripNote:
    """What one process has written of the step after `step`."""

    step: int  # steps done by all
    world: int  # number of processes, and with it the strips
    batch_size: int  # windows at once
    rows: int  # before this row, all of its strip are written that no other process' windows touch
    synced: int  # the same, on the disk for certain
    machine: bytes = b""  # the running machine on which `rows` were written

    def here(self, machine: str) -> int:
        """Return the row before which what is written can be counted on, by a process on a running machine."""
        return self.rows if machine and self.machine == machine_digest(machine) else self.synced


def machine_digest(machine: str) -> bytes:
    """Shorten the name of a running machine to 16 bytes."""
    return hashlib.sha256(machine.encode()).digest()[:16]


def write_note(rows: FileRows, rank: int, note: StripNote) -> None:
    """Write the note of a process; of one for which the header has no room, none."""
    if rank < NOTES:
        content = FORM.pack(*astuple(note))
        rows.write_note(rank, content + zlib.crc32(content).to_bytes(4, "little"))


def read_note(rows: FileRows, rank: int) -> StripNote | None:
    """Read the note of a process; None where there is none, or half of one."""
    if rank >= NOTES:
        return None
    content = rows.read_note(rank)[: FORM.size + 4]
    if len(content) < FORM.size + 4 or zlib.crc32(content[:-4]).to_bytes(4, "little") != content[-4:]:
        return None
    note = StripNote(*FORM.unpack(content[:-4]))
    return note if note.world else None


assert FORM.size + 4 <= NOTE_BYTES
