"""The frame table of a video, from its container alone, and what the table says about the file.

Nothing is decoded and no decoder is imported here. The table decides which frames are wanted, whichever decoder
then fetches them, so that the choice of decoder cannot change the choice of frames.
"""

import os
from typing import NamedTuple

import numpy as np

# Where decord 0.6.0 fetched the right frames in random order. Elsewhere it returned wrong ones without an error:
# MPEG-TS, MPEG-PS and H.264 in AVI. AV1 it cannot open.
DECORD_CONTAINERS = {"mov", "mp4", "matroska", "webm"}
DECORD_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4"}


class Packet(NamedTuple):
    """One coded picture as the container lists it; times in ticks, None where the container gives none."""

    pts: int | None  # when it is shown
    dts: int | None  # when it is decoded
    duration: int
    is_key: bool
    is_discard: bool  # an edit list hides it: decoded, never shown
    is_corrupt: bool
    is_clean_key: bool  # a key picture after which the decoder needs nothing from before it


class Track(NamedTuple):
    """The video stream of a file. `packets` stand in file order, the frame arrays in order of presentation."""

    containers: frozenset[str]
    codec: str
    width: int
    height: int
    tick_s: float
    packets: list[Packet]
    ticks: np.ndarray  # (n,) int64: when each shown frame appears; its place in the order if `counted`
    counted: bool  # the container has no presentation times: frames are told apart by counting
    ends_s: np.ndarray  # (n,) float64: when each frame leaves the screen, seconds after the first appears
    duration_s: float  # of the whole video as the container claims it, even if the file was cut short
    complete_s: float  # frames wanted up to here are in the file; infinite unless it was cut short


def build_track(
    packets: list[Packet],
    *,
    containers: frozenset[str],
    codec: str,
    size: tuple[int, int],
    tick_s: float,
    frame_s: float,
    claimed_end_s: float | None,
    is_cut: bool,
) -> Track | None:
    """The table of a stream's `packets`, or None if no frame is shown.

    `frame_s`: one frame's time, for the frames whose duration the container does not tell, 0 if unknown;
    `claimed_end_s`: when the header says that the stream ends, None if it does not; `is_cut`: the file is known to
    lack its end.
    """
    is_cut = is_cut or bool(packets and packets[-1].is_corrupt)
    shown = [p for p in packets if not p.is_discard and not p.is_corrupt]
    counted = any(p.pts is None for p in shown)
    if not shown or (counted and frame_s <= 0):
        return None
    if counted:
        ticks, tick_s, last_s = np.arange(len(shown), dtype=np.int64), frame_s, frame_s
    else:
        ticks = np.unique(np.array([p.pts for p in shown], dtype=np.int64))
        last = max(p.duration for p in shown if p.pts == ticks[-1])
        last_s = (
            last * tick_s or frame_s or (float(ticks[-1] - ticks[-2]) * tick_s if len(ticks) > 1 else 0.0)
        )
    starts_s = (ticks - ticks[0]) * tick_s
    ends_s = np.append(starts_s[1:], starts_s[-1] + last_s)
    duration_s, complete_s = float(ends_s[-1]), float("inf")
    if claimed_end_s is not None:
        claimed_s = claimed_end_s - (0.0 if counted else float(ticks[0]) * tick_s)
        # Headers round, and some leave out the last frame's time: only more than a frame's worth is a loss.
        is_cut = (
            is_cut or claimed_s > duration_s + 1.5 * max(np.diff(ends_s, prepend=0.0).max(), frame_s) + 1e-3
        )
        duration_s = max(duration_s, claimed_s) if is_cut else duration_s
    if is_cut:
        # Packets come in order of decoding, so at the cut some frames are missing between others that are there.
        # All that are shown up to the last decoding time are complete.
        dts = [p.dts for p in packets if p.dts is not None and not p.is_corrupt]
        complete_s = (max(dts) - int(ticks[0])) * tick_s if dts and not counted else 0.0
    return Track(containers, codec, *size, tick_s, packets, ticks, counted, ends_s, duration_s, complete_s)


def why_not_decord(track: Track) -> str:
    """The reason not to trust decord 0.6.0 with this video, or "".

    In each of these cases it opens the file, or seems to, and returns wrong frames without a word.
    """
    if track.codec not in DECORD_CODECS:
        return f"decord is not trusted with the codec {track.codec}"
    if not track.containers & DECORD_CONTAINERS:
        return f"decord is not trusted with the container {'/'.join(sorted(track.containers))}"
    if track.counted:
        return "the container has no presentation times"
    if any(p.is_discard or (p.pts is not None and p.pts < 0) for p in track.packets):
        return "an edit list or negative times hide the first frames, which decord ignores"
    if track.complete_s < float("inf"):
        return "the file was cut short"
    if any(p.is_key and not p.is_clean_key for p in track.packets):
        return "decord seeks to key frames that need earlier ones (open GOP or intra refresh)"
    key_pts = None
    for packet in track.packets:
        if packet.is_key:
            key_pts = packet.pts
        elif key_pts is not None and packet.pts < key_pts:
            return "decord seeks wrongly where pictures shown before a key frame follow it (open GOP)"
    return ""


def starts_clean(data: bytes, codec: str, extradata: bytes) -> bool:
    """Whether the key packet `data` lets a decoder start afresh. Told for H.264 in MP4 or Matroska, by an IDR slice;
    other codecs count as clean, as their open GOPs show in the times."""
    if codec != "h264":
        return True
    if len(extradata) < 7 or extradata[0] != 1:  # not the length-prefixed layout (avcC)
        return False
    prefix, at = (extradata[4] & 3) + 1, 0
    while at + prefix < len(data):
        if data[at + prefix] & 31 == 5:  # nal_unit_type 5: slice of an IDR picture
            return True
        at += prefix + int.from_bytes(data[at : at + prefix], "big")
    return False


class FileShape(NamedTuple):
    """What the first bytes and the box sizes of a file say."""

    looks_like_video: bool
    is_cut: bool  # the last box of an MP4 reaches past the end of the file
    is_fragmented: bool  # an MP4 in fragments, whose header does not tell the length


def file_shape(path: str) -> FileShape:
    """Walk the top-level boxes of an MP4 or MOV; know Matroska, AVI and FLV by their first bytes."""
    size, at, kinds = os.path.getsize(path), 0, []
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            known = magic[:4] == b"\x1a\x45\xdf\xa3" or magic[:3] == b"FLV" or magic[8:11] == b"AVI"
            return FileShape(known, False, False)
        while at < size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:  # the size stands in 64 bits after the name
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:  # to the end of the file
                length = size - at
            kinds.append(head[4:8])
            if length < 8:
                break
            at += length
    return FileShape(True, at > size, b"moof" in kinds)
