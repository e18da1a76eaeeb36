"""Read a video's frame table from an open PyAV container, which is passed in: no decoder is imported here."""

from typing import Any

from stts_lightning.video.files import FileShape
from stts_lightning.video.track import Header, Packet, Track, build_track, starts_clean


def best_stream(container: Any) -> Any:
    """FFmpeg's choice among the video streams, and so decord's; cover pictures of music do not count."""
    best = container.streams.best("video")
    videos = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
    return best if best in videos else next(iter(videos), None)


def list_packets(container: Any, stream: Any, shape: FileShape, file_bytes: int) -> Track | None:
    """The frame table of `stream` from its header and all its packets: 4 us a packet, none decoded.

    `file_bytes` is the size of the file. None if the stream shows no frame that has a time.
    """
    context, tick_s = stream.codec_context, float(stream.time_base)
    codec, extradata = context.codec.canonical_name, context.extradata or b""
    packets, broke_off = [], False
    try:
        for p in container.demux(stream):
            if p.pts is None and p.dts is None and not p.size:  # PyAV's own marker of the end
                continue
            clean = p.is_keyframe and starts_clean(bytes(p), codec, extradata)
            packets.append(Packet(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard, p.is_corrupt, clean))
    except Exception:  # a damaged packet, or the end of a cut file
        broke_off = True
    rate = stream.average_rate or stream.guessed_rate
    header = Header(
        frozenset(container.format.name.split(",")),
        codec,
        context.width,
        context.height,
        tick_s,
        frame_s=1.0 / float(rate) if rate else 0.0,
        claimed_end_s=_claimed_end(container, stream, tick_s),
        is_cut=lacks_data(stream, file_bytes) or broke_off or (shape.is_cut and shape.must_be_whole),
        video_streams=len(container.streams.video),
    )
    return build_track(packets, header)


def lacks_data(stream: Any, file_bytes: int) -> bool:
    """Whether the index, where there is one, names data past the end of the file."""
    return any(entry.pos + entry.size > file_bytes for entry in stream.index_entries)


def is_picture(container: Any) -> bool:
    """A JPEG or PNG under a video's name, which FFmpeg plays as a video of one frame. Not a GIF."""
    name = container.format.name
    return bool(name == "image2" or name.endswith("_pipe"))


def _claimed_end(container: Any, stream: Any, tick_s: float) -> float | None:
    """When the header says that the video stream ends, in seconds on the stream's own clock."""
    if not {"mov", "matroska", "flv"} & set(container.format.name.split(",")):
        return None  # elsewhere it is guessed from the very data that may be missing
    tag = stream.metadata.get("DURATION", "").split(":")  # Matroska's, as "00:00:02.000000000"
    if len(tag) == 3:
        return 3600 * float(tag[0]) + 60 * float(tag[1]) + float(tag[2])
    if stream.duration:
        return ((stream.start_time or 0) + stream.duration) * tick_s
    # The file's own length is that of its longest stream, which may be the sound.
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None
