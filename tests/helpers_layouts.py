"""Small screens in the layouts that instruments and archives use.

The first pixel of each image is a tag that says which image it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile

from wsdino.screen.images import planes_of, read_site

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (6, 8)


def tagged(tag: int, *, size: tuple[int, int] = SIZE) -> np.ndarray:
    """An image whose first pixel is `tag`."""
    image = np.full(size, 3, np.uint16)
    image[0, 0] = tag
    return image


def write_tagged(path: Path, tag: int, *, size: tuple[int, int] = SIZE) -> Path:
    """Write such an image as a TIFF, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, tagged(tag, size=size))
    return path


def tags_of(manifest: pd.DataFrame) -> list[list[int]]:
    """The tag of each channel of each site."""
    return [read_site(planes)[:, 0, 0].tolist() for planes in planes_of(manifest)]


def write_table(path: Path, rows: list[dict] | pd.DataFrame, *, sep: str = ",") -> Path:
    """Write a table, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, sep=sep)
    return path


WELLS = ("A01", "A02", "A03", "B01", "B02", "B03")
GALLERY = "s3://cellpainting-gallery/cpg0000-x/source_4"


def write_gallery_plate(source: Path, batch: str, barcode: str, *, start: int = 0) -> None:
    """Write images, functions and LoadData of a plate of the Gallery, a site per well.

    Tags are `start` + 10 * well + channel, from 0; functions divide the second channel by 2.
    """
    full = f"{barcode}__2021-05-02T16_02_51-Measurement1"
    rows = []
    for w, well in enumerate(WELLS):
        row: dict[str, object] = {}
        for c, channel in enumerate(("DNA", "AGP")):
            name = f"r{'AB'.index(well[0]) + 1:02d}c{well[1:]}f01p01-ch{c + 1}sk1fk1fl1.tiff"
            folder = source / "images" / batch / "images" / full / "Images"
            write_tagged(folder / name, start + 10 * w + c)
            row[f"FileName_Orig{channel}"] = name
            row[f"PathName_Orig{channel}"] = f"{GALLERY}/images/{batch}/images/{full}/Images/"
            row[f"FileName_Illum{channel}"] = f"{barcode}_Illum{channel}.npy"
            row[f"PathName_Illum{channel}"] = f"{GALLERY}/images/{batch}/illum/{barcode}"
            functions = source / "images" / batch / "illum" / barcode
            functions.mkdir(parents=True, exist_ok=True)
            np.save(functions / f"{barcode}_Illum{channel}.npy", np.full(SIZE, float(c + 1)))
        rows.append(row | {"Metadata_Plate": barcode, "Metadata_Well": well, "Metadata_Site": 1})
    table = source / "workspace" / "load_data_csv" / batch / barcode
    write_table(table / "load_data_with_illum.csv", rows)
    plain = [{k: v for k, v in row.items() if "Illum" not in k} for row in rows]
    write_table(table / "load_data.csv", plain)


def write_map(
    metadata: Path, batch: str, name: str, samples: list[str], doses: list[str] | None = None
) -> None:
    """Write a plate map as the Broad does, a row per well of `WELLS`."""
    columns: dict[str, object] = {"well_position": WELLS, "broad_sample": samples}
    if doses is not None:
        columns |= {"plate_map_name": name, "mmoles_per_liter": doses}
    columns["solvent"] = "DMSO"
    path = metadata / "platemaps" / batch / "platemap" / f"{name}.txt"
    write_table(path, pd.DataFrame(columns), sep="\t")


NAMESPACES = {
    5: "http://www.perkinelmer.com/PEHH/HarmonyV5",
    6: "http://www.perkinelmer.com/PEHH/HarmonyV6",
    7: "43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7",
}
HARMONY_CHANNELS = {1: "HOECHST 33342", 2: "Alexa 488"}
IDENTITY = "{Background: {Character: Null, Mean: NaN, Profile: {Type: Identity}, Quality: 0.25}}"


def profile_of(coefficients: list[list[float]], *, size: tuple[int, int] = SIZE) -> str:
    """A flat-field profile as Harmony writes it; size is (H, W)."""
    height, width = size
    origin = f"[{(width - 1) / 2}, {(height - 1) / 2}]"
    return (
        "{Background: {Character: NonFlat, Mean: 443.79, NoiseConst: 1.9, NonFlatness: {Corrected: "
        f"0.1, Original: 0.5, Random: INF}}, Profile: {{Coefficients: {coefficients}, Dims: "
        f"[{width}, {height}], Origin: {origin}, Scale: [0.1, 0.2], Type: Polynomial}}, Quality: "
        "1.0}, Channel: 1, ChannelName: HOECHST 33342, Version: Acapella:2013}"
    )


def write_harmony(
    folder: Path,
    version: int,
    *,
    plate: str = "BR1",
    planes: int = 1,
    times: int = 1,
    profiles: dict[int, str] | None = None,
    start: int = 0,
    failed: tuple[str, ...] = (),
    name: str = "Index.idx.xml",
) -> Path:
    """Write a measurement of two wells (r01c02, r16c24) with two fields each; return its folder.

    Tags are `start` + 1000 * well + 100 * field + 50 * time + 10 * plane + channel.
    """
    images = []
    for w, (row, column) in enumerate(((1, 2), (16, 24))):
        for field in (1, 2):
            for time in range(times):
                for plane in range(1, planes + 1):
                    for channel, dye in HARMONY_CHANNELS.items():
                        tag = start + 1000 * w + 100 * field + 50 * time + 10 * plane + channel
                        url = (
                            f"r{row:02d}c{column:02d}f{field:02d}p{plane:02d}-ch{channel}"
                            f"sk{time + 1}fk1fl1.tiff"
                        )
                        write_tagged(folder / "Images" / url, tag)
                        state = "Error" if url in failed else "Ok"
                        own = f"<ChannelName>{dye}</ChannelName>" if version == 5 else ""
                        images.append(
                            f'<Image Version="1"><id>{tag}</id><State>{state}</State>'
                            f"<URL>{url}</URL><Row>{row}</Row><Col>{column}</Col>"
                            f"<FieldID>{field}</FieldID><PlaneID>{plane}</PlaneID>"
                            f"<TimepointID>{time}</TimepointID><ChannelID>{channel}</ChannelID>{own}"
                            "</Image>"
                        )
    maps = "".join(
        f'<Entry ChannelID="{channel}"><FlatfieldProfile>{(profiles or {}).get(channel, IDENTITY)}'
        "</FlatfieldProfile></Entry>"
        for channel in HARMONY_CHANNELS
    )
    shared = "".join(
        f'<Entry ChannelID="{channel}"><ChannelName>{dye}</ChannelName></Entry>'
        for channel, dye in HARMONY_CHANNELS.items()
    )
    named = f"<Map>{shared}</Map>" if version > 5 else ""
    (folder / "Images" / name).write_text(
        f'<?xml version="1.0" encoding="utf-8"?><EvaluationInputData xmlns="{NAMESPACES[version]}">'
        f"<Plates><Plate><PlateID>{plate}</PlateID><Name>{plate}</Name></Plate></Plates>"
        f"<Maps><Map>{maps}</Map>{named}</Maps><Images>{''.join(images)}</Images>"
        "</EvaluationInputData>"
    )
    return folder
