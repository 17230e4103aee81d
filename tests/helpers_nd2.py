"""Writes ND2 files of version 3, as NIS-Elements does: chunks, and a map of them at the end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_MAGIC = 0x0ABECEDA
# Data of a chunk lie 4,096 bytes behind its start, those of an image after eight bytes of its time.
_NAME_BYTES = 4096 - 24
_XY_POSITIONS, _Z_STACK = 2, 4
_UNCOMPRESSED = 2


def write_nd2(
    path: Path,
    positions: Mapping[str, NDArray[np.uint16]],
    channels: Sequence[str],
) -> None:
    """Write a file of positions of the stage, with pixels of half a micrometre.

    Parameters
    ----------
    path
        File.
    positions
        Their names, and pixels (Z, C, Y, X) of each, all of one shape.
    channels
        Their C names.
    """
    depth, _, height, width = next(iter(positions.values())).shape
    num_channels = len(channels)
    attributes = {
        "uiWidth": width,
        "uiHeight": height,
        "uiWidthBytes": width * num_channels * 2,
        "uiComp": num_channels,
        "uiBpcInMemory": 16,
        "uiBpcSignificant": 16,
        "uiSequenceCount": len(positions) * depth,
        "eCompression": _UNCOMPRESSED,
    }
    dye = {"m_uiColor": 0}
    planes = {
        f"a{i}": {
            "uiCompCount": 1,
            "uiSampleIndex": i,
            "sDescription": name,
            "pFluorescentProbe": dye,
        }
        for i, name in enumerate(channels)
    }
    picture = {
        "bCalibrated": True,
        "dCalibration": 0.5,
        "sPicturePlanes": {"uiCount": num_channels, "sPlaneNew": planes},
    }
    points = {
        f"i{i:010}": {"dPosX": 100.0 * i, "dPosY": 0.0, "dPosZ": 0.0, "dPosName": name}
        for i, name in enumerate(positions)
    }
    stack = {
        "eType": _Z_STACK,
        "uLoopPars": {"uiCount": depth, "dZLow": 0.0, "dZHigh": depth - 1.0, "dZStep": 1.0},
    }
    experiment: dict[str, Any] = {
        "eType": _XY_POSITIONS,
        "uLoopPars": {"uiCount": len(positions), "Points": points},
        "ppNextLevelEx": {"i0000000000": stack},
    }
    chunks = {
        "ImageAttributesLV!": _fields({"SLxImageAttributes": attributes}),
        "ImageMetadataLV!": _fields({"SLxExperiment": experiment}),
        "ImageMetadataSeqLV|0!": _fields({"SLxPictureMetadata": picture}),
    }
    frames = [stack[z] for stack in positions.values() for z in range(depth)]
    times = [1000.0 * number for number in range(len(frames))]
    chunks["CustomData|AcqTimesCache!"] = struct.pack(f"<{len(times)}d", *times)
    for number, frame in enumerate(frames):
        # Channels lie side by side in each pixel.
        chunks[f"ImageDataSeq|{number}!"] = bytes(8) + frame.transpose(1, 2, 0).tobytes()
    signature, version = b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0")
    content = struct.pack("<IIQ", _MAGIC, len(signature), len(version)) + signature + version
    places = b""
    for name, data in chunks.items():
        places += name.encode() + struct.pack("<QQ", len(content), len(data))
        header = struct.pack("<IIQ", _MAGIC, _NAME_BYTES, len(data))
        content += header + name.encode().ljust(_NAME_BYTES, b"\0") + data
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", len(content))
    name = b"ND2 FILEMAP SIGNATURE NAME 0001!"
    header = struct.pack("<IIQ", _MAGIC, len(name), len(places + end))
    path.write_bytes(content + header + name + places + end)


def _fields(given: Mapping[str, Any]) -> bytes:
    """Encode a tree of named values: type, length of the name, name, value."""
    return b"".join(_field(name, value) for name, value in given.items())


def _field(name: str, value: object) -> bytes:
    encoded = (name + "\0").encode("utf-16-le")

    def start(kind: int) -> bytes:
        return bytes([kind, len(name) + 1]) + encoded

    match value:
        case bool():
            return start(1) + bytes([value])
        case int():
            return start(3) + struct.pack("<I", value)
        case float():
            return start(6) + struct.pack("<d", value)
        case str():
            return start(8) + (value + "\0").encode("utf-16-le")
        case dict():
            inside = _fields(value)
            size = len(start(11)) + 12 + len(inside)
            # After the values come their places, which readers skip.
            return start(11) + struct.pack("<IQ", len(value), size) + inside + bytes(8 * len(value))
    raise TypeError(f"{name}: {type(value).__name__}")
