"""The frame table of a video, from its container alone, and what it says about the file.

Nothing is decoded and no decoder is imported here. The table decides which frames are wanted, whichever
decoder then fetches them, so that the choice of decoder cannot change the choice of frames.
"""

from typing import NamedTuple

import numpy as np

# Where decord 0.6.0 fetched the right frames in random order. Elsewhere it returned wrong ones without an
# error (MPEG-TS, MPEG-PS, H.264 in AVI), or could not open the file (AV1).
DECORD_CONTAINERS = {"mov", "mp4", "matroska", "webm"}
DECORD_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4"}


class Packet(NamedTuple):
    """One coded picture as the container lists it; times in ticks, None where the container gives none."""

    pts: int | None  # when it is shown
    dts: int | None  # when it is decoded
    duration: int
    is_key: bool
    is_discard: bool  # an edit list hides it: decoded, never shown
    is_corrupt: bool  # the container knows that a part is missing
    is_clean_key: bool  # a key picture after which the decoder needs nothing from before it


class Header(NamedTuple):
    """What the file's header and size say about the video stream."""

    containers: frozenset[str]  # the demuxer's names, such as {"mov", "mp4", ...}
    codec: str
    width: int
    height: int
    tick_s: float
    frame_s: float  # one frame's time by the average rate, 0 if unknown
    claimed_end_s: float | None  # when the stream ends, on its own clock; None if the header does not tell
    is_cut: bool  # the file is known to lack its end
    video_streams: int  # in the file, this one among them


class Track(NamedTuple):
    """The video stream of a file. The arrays stand in order of presentation, `packets` in file order."""

    header: Header
    packets: list[Packet]
    ticks: np.ndarray  # (n,) int64: when each shown frame appears; its place in the order if `counted`
    tick_s: float
    counted: bool  # the container has no presentation times: frames are told apart by counting
    ends_s: np.ndarray  # (n,) float64: when each frame leaves the screen, in seconds after the first appears
    duration_s: float  # of the whole video, as the container claims it if the file was cut short
    complete_s: float  # no picture is missing up to here; infinite unless the file was cut short


def build_track(packets: list[Packet], header: Header) -> Track | None:
    """The table of the stream's `packets`, or None if they show no frame that has a time of its own."""
    is_cut = header.is_cut or bool(packets and packets[-1].is_corrupt)
    whole = packets[:-1] if packets and packets[-1].is_corrupt else packets
    shown = [p for p in whole if not p.is_discard]
    # AVI numbers its packets in order of decoding, which is not a time: count there too.
    counted = "avi" in header.containers or any(p.pts is None for p in shown)
    if not shown or (counted and header.frame_s <= 0):
        return None
    if counted:
        ticks, tick_s = np.arange(len(shown), dtype=np.int64), header.frame_s
        last_s = header.frame_s
    else:
        ticks, tick_s = np.unique(np.array([p.pts for p in shown], dtype=np.int64)), header.tick_s
        if len(ticks) == 1 and len(shown) > 2:  # two may be the fields of one picture
            return None
        last_s = max(p.duration for p in shown if p.pts == ticks[-1]) * tick_s or header.frame_s
    starts_s = (ticks - ticks[0]) * tick_s
    ends_s = np.append(starts_s[1:], starts_s[-1] + last_s)
    duration_s, complete_s = float(ends_s[-1]), float("inf")
    if header.claimed_end_s is not None:
        claimed_s = header.claimed_end_s - (0.0 if counted else float(ticks[0]) * tick_s)
        # Headers round, and some leave out the last frame's time: only more than a frame's worth is a loss.
        longest_s = max(float(np.diff(ends_s, prepend=0.0).max()), header.frame_s)
        is_cut = is_cut or claimed_s > duration_s + 1.5 * longest_s + 1e-3
        duration_s = max(duration_s, claimed_s) if is_cut else duration_s
    if is_cut:
        # Packets come in order of decoding, so at the cut, frames are missing between others that are there;
        # none is missing up to the last decoding time.
        dts = [p.dts for p in whole if p.dts is not None]
        complete_s = (max(dts) - int(ticks[0])) * tick_s if dts and not counted else 0.0
    return Track(header, packets, ticks, tick_s, counted, ends_s, duration_s, complete_s)


def why_not_decord(track: Track) -> str:
    """The reason not to trust decord 0.6.0 with this video, or "".

    In most of these cases it opens the file and returns wrong frames without a word.
    """
    if track.header.codec not in DECORD_CODECS:
        return f"decord is not trusted with the codec {track.header.codec}"
    if not track.header.containers & DECORD_CONTAINERS:
        return f"decord is not trusted with the container {'/'.join(sorted(track.header.containers))}"
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
        elif key_pts is not None and packet.pts is not None and packet.pts < key_pts:
            return "decord seeks wrongly where a key frame is followed by pictures shown before it (open GOP)"
    return ""


def starts_clean(data: bytes, codec: str, extradata: bytes) -> bool:
    """Whether the key packet `data` lets a decoder start afresh.

    Told for H.264 in MP4 or Matroska, by a slice of an IDR picture. Other codecs count as clean: their open
    GOPs show in the times.
    """
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
