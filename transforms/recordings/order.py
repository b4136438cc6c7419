"""Display order of raw video: picture order counts from slice headers, since Annex B streams have no times.

H.264: ITU-T H.264 7.3.2.1, 7.3.3, 8.2.1. H.265: ITU-T H.265 7.3.2.2, 7.3.2.3, 7.3.6.1, 8.3.1. Only the fields up to the
count are read; fields (interlaced video) and H.264's count type 1 are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


class NoOrder(ValueError):
    """The order of the pictures cannot be told."""


class Bits:
    """A unit's payload, bit by bit, its emulation prevention bytes taken out."""

    def __init__(self, unit: bytes) -> None:
        self._data = unit.replace(b"\x00\x00\x03", b"\x00\x00")
        self._at = 0

    def u(self, count: int) -> int:
        end = self._at + count
        if end > 8 * len(self._data):
            raise NoOrder("a header ends early")
        first, last = self._at >> 3, (end + 7) >> 3
        value = int.from_bytes(self._data[first:last], "big")
        self._at = end
        return value >> (8 * last - end) & ((1 << count) - 1)

    def ue(self) -> int:
        zeros = 0
        while self.u(1) == 0:
            zeros += 1
            if zeros > 32:
                raise NoOrder("a header is damaged")
        return (1 << zeros) - 1 + (self.u(zeros) if zeros else 0)

    def se(self) -> int:
        value = self.ue()
        return (value + 1) // 2 if value & 1 else -(value // 2)


@dataclass(frozen=True)
class _H264Sequence:
    frame_num_bits: int
    count_type: int
    count_bits: int
    separate_planes: bool
    frames_only: bool


def _h264_sequence(unit: bytes) -> tuple[int, _H264Sequence]:
    bits = Bits(unit[1:])
    profile = bits.u(8)
    bits.u(16)
    number = bits.ue()
    separate = False
    if profile in HIGH_PROFILES:
        chroma = bits.ue()
        if chroma == 3:
            separate = bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)
        if bits.u(1):
            for place in range(8 if chroma != 3 else 12):
                if bits.u(1):
                    _scaling_list(bits, 16 if place < 6 else 64)
    frame_num_bits = bits.ue() + 4
    count_type = bits.ue()
    count_bits = bits.ue() + 4 if count_type == 0 else 0
    if count_type == 1:
        raise NoOrder("its picture order counts are of type 1, which is not read")
    bits.ue(), bits.u(1), bits.ue(), bits.ue()
    return number, _H264Sequence(frame_num_bits, count_type, count_bits, separate, bool(bits.u(1)))


def _scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


@dataclass(frozen=True)
class _HevcSequence:
    count_bits: int
    separate_planes: bool


def _hevc_sequence(unit: bytes) -> tuple[int, _HevcSequence]:
    bits = Bits(unit[2:])
    bits.u(4)
    layers = bits.u(3)
    bits.u(1)
    bits.u(88), bits.u(8)
    present = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    if layers:
        bits.u(2 * (8 - layers))
    for profile, level in present:
        bits.u(88 if profile else 0)
        bits.u(8 if level else 0)
    number = bits.ue()
    separate = False
    if bits.ue() == 3:
        separate = bool(bits.u(1))
    bits.ue(), bits.ue()
    if bits.u(1):
        bits.ue(), bits.ue(), bits.ue(), bits.ue()
    bits.ue(), bits.ue()
    return number, _HevcSequence(bits.ue() + 4, separate)


@dataclass
class Counter:
    """Gives each picture its place in display order: (coded sequence, picture order count).

    The units of a stream are shown to it in order: `parameters` for parameter sets, `picture` for each picture's first slice.
    """

    codec: str
    _sequences: dict[int, _H264Sequence | _HevcSequence] = field(default_factory=dict)
    _pictures: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _coded: int = 0
    _previous: tuple[int, int] = (0, 0)

    def parameters(self, kind: int, unit: bytes) -> None:
        """Raises NoOrder for parameter sets that cannot be read."""
        if self.codec == "h264" and kind == 7:
            number, sequence = _h264_sequence(unit)
            if not sequence.frames_only:
                raise NoOrder("it may be interlaced")
            self._sequences[number] = sequence
        elif self.codec == "h264" and kind == 8:
            bits = Bits(unit[1:])
            self._pictures[bits.ue()] = (bits.ue(), 0, 0)
        elif self.codec == "hevc" and kind == 33:
            number, hevc = _hevc_sequence(unit)
            self._sequences[number] = hevc
        elif self.codec == "hevc" and kind == 34:
            bits = Bits(unit[2:])
            name, of = bits.ue(), bits.ue()
            bits.u(1)
            output_flag = bits.u(1)
            self._pictures[name] = (of, output_flag, bits.u(3))

    def picture(self, kind: int, unit: bytes) -> tuple[int, int]:
        """Raises NoOrder where its parameter sets were not there."""
        return self._h264(kind, unit) if self.codec == "h264" else self._hevc(kind, unit)

    def _count(self, lsb: int, bits: int, keep: bool) -> int:
        most = 1 << bits
        lsb_before, msb = self._previous
        if lsb < lsb_before and lsb_before - lsb >= most // 2:
            msb += most
        elif lsb > lsb_before and lsb - lsb_before > most // 2:
            msb -= most
        if keep:
            self._previous = (lsb, msb)
        return msb + lsb

    def _of(self, name: int) -> tuple[_H264Sequence | _HevcSequence, int, int]:
        if name not in self._pictures or self._pictures[name][0] not in self._sequences:
            raise NoOrder("a picture comes before its parameter sets")
        sequence, output_flag, extra = self._pictures[name]
        return self._sequences[sequence], output_flag, extra

    def _h264(self, kind: int, unit: bytes) -> tuple[int, int]:
        bits = Bits(unit[1:64])
        bits.ue(), bits.ue()
        sequence, _, _ = self._of(bits.ue())
        assert isinstance(sequence, _H264Sequence)
        if kind == 5:
            self._coded, self._previous = self._coded + 1, (0, 0)
        bits.u(2 if sequence.separate_planes else 0)
        number = bits.u(sequence.frame_num_bits)
        if sequence.count_type == 2:  # shown as coded (8.2.1.3)
            referred = unit[0] >> 5 & 3 != 0
            return self._coded, 2 * self._count(number, sequence.frame_num_bits, keep=True) - (not referred)
        if kind == 5:
            bits.ue()
        lsb = bits.u(sequence.count_bits)
        return self._coded, self._count(lsb, sequence.count_bits, keep=unit[0] >> 5 & 3 != 0)

    def _hevc(self, kind: int, unit: bytes) -> tuple[int, int]:
        bits = Bits(unit[2:64])
        bits.u(1)
        if 16 <= kind <= 23:
            bits.u(1)
        sequence, output_flag, extra = self._of(bits.ue())
        assert isinstance(sequence, _HevcSequence)
        bits.u(extra)
        bits.ue()
        bits.u(output_flag)
        bits.u(2 if sequence.separate_planes else 0)
        if 16 <= kind <= 20:  # IDR and BLA begin a sequence; a CRA does only where the stream begins
            self._coded, self._previous = self._coded + 1, (0, 0)
        if kind in (19, 20):
            return self._coded, 0
        lsb = bits.u(sequence.count_bits)
        # of pictures that others do not refer to, and of leading ones, the count is not taken on (8.3.1)
        keep = (unit[1] & 7) == 1 and not (6 <= kind <= 9) and not (kind <= 14 and kind % 2 == 0)
        return self._coded, self._count(lsb, sequence.count_bits, keep)
