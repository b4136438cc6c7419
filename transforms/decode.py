"""Runs to frames: each wanted frame is decoded once, matched by the stream's own time.

Frames that nobody wants and that no other frame refers to are not decoded at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import av

from transforms.errors import Unreadable, is_of_machine
from transforms.plan import Run
from transforms.recordings import Channel
from transforms.recordings.mp4 import cause


def decode_run(
    channel: Channel, decoder: av.VideoCodecContext, run: Run
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(place in the index, frame) of the run's wanted frames, ascending in time.

    decoder: of this channel; it is drained afterwards and can take another run. Raises Unreadable for a frame that does
    not decode, or only in part.
    """
    pts = channel.index.pts
    wanted = frozenset(run.wanted)
    waiting = {int(pts[place]): place for place in run.wanted}
    try:
        decoder.flush_buffers()
        for place, packet in _fed(channel, run):
            # heeded for the very packet, by each of its threads; what others refer to is decoded all the same
            decoder.skip_frame = "DEFAULT" if place is None or place in wanted else "NONREF"
            for frame in decoder.decode(packet):
                found = waiting.pop(frame.pts, None) if frame.pts is not None else None
                if found is None:
                    continue
                if frame.is_corrupt:
                    raise Unreadable("a recording", f"frame {found} is damaged")
                yield found, frame
    except (av.FFmpegError, ValueError) as error:
        if is_of_machine(error):
            raise
        raise Unreadable(
            "a recording", f"frames {run.start} to {run.stop - 1} do not decode: {cause(error)}"
        ) from error
    if waiting:
        missing = min(waiting.values())
        raise Unreadable("a recording", f"frame {missing} gives no picture ({len(waiting)} of its run)")


def _fed(channel: Channel, run: Run) -> Iterator[tuple[int | None, av.Packet[Any] | None]]:
    """(place, packet) of a run, and at its end what makes the decoder give the rest."""
    places = range(run.start, run.stop)
    return chain(zip(places, channel.packets(places), strict=True), [(None, None)])
