"""Small screens in the layouts that instruments and archives use.

The first pixel of each image is a tag that says which image it is.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
import zarr

from wsdino.screen.images import Planes, read_site

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


def wells(*names: str) -> pd.DataFrame:
    """A plate map of two wells, a control and a treated one, on every plate."""
    return pd.DataFrame({"Metadata_Well": names, "Metadata_Compound": ["DMSO", "x"]})


def tags_of(manifest: pd.DataFrame) -> list[list[int]]:
    """The tag of each channel of each site."""
    return [read_site(planes)[:, 0, 0].tolist() for planes in Planes(manifest)]


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
        "</EvaluationInputData>",
        encoding="utf-8",
    )
    return folder


def write_imagexpress(
    folder: Path,
    *,
    plate: str = "Plate1",
    times: int = 1,
    steps: int = 0,
    sites: int = 2,
    waves: tuple[str, ...] = ("DAPI", "FITC"),
    guid: bool = True,
) -> Path:
    """Write a plate with an HTD file; return its folder. Without `steps` there is no ZStep folder.

    Tags are 1000 * well + 100 * site + 50 * time + 10 * step + wave, all counted from 1.
    """
    number = 0
    for time in range(1, times + 1):
        for w, well in enumerate(("B02", "C03"), start=1):
            for site in range(1, sites + 1):
                for wave in range(1, len(waves) + 1):
                    for step in range(1, max(steps, 1) + 1):
                        number += 1
                        name = f"{plate}_{well}"
                        name += f"_s{site}" if sites > 1 else ""
                        name += f"_w{wave}" if len(waves) > 1 else ""
                        ending = f"{number:08X}-15BC-4AC8-8A1A-5F0D3AB1C23E" if guid else ""
                        parent = folder / f"TimePoint_{time}"
                        parent = parent / f"ZStep_{step}" if steps else parent
                        tag = 1000 * w + 100 * site + 50 * time + 10 * step + wave
                        write_tagged(parent / f"{name}{ending}.tif", tag)
                        write_tagged(parent / f"{name}_thumb{ending}.tif", 9, size=(3, 4))
    lines = ['"HTSInfoFile", Version 1.0', f'"TimePoints", {times}', f'"XSites", {sites}']
    lines += [f'"WaveName{i}", "{name}"' for i, name in enumerate(waves, start=1)]
    lines += ['"SiteSelection1", TRUE, FALSE', '"EndFile"']
    (folder / f"{plate}.HTD").write_text("\r\n".join(lines), encoding="cp1252")
    return folder


def write_jdce(folder: Path, *, barcode: str = "3500009044", steps: int = 2) -> Path:
    """Write a plate with a JDCE file; return its folder.

    Tags are 1000 * well + 100 * site + 10 * step + wave, all counted from 0.
    """
    rows = []
    for w, well in enumerate(("B - 7", "B - 8")):
        for site in (0, 1):
            for wave in (0, 1):
                for step in range(steps):
                    name = f"Scan_t0_{well.replace(' - ', '0')}_s{site}_w{wave}_z{step}.tif"
                    tag = 1000 * w + 100 * site + 10 * step + wave
                    write_tagged(folder / "timepoint0" / name, tag)
                    rows.append(
                        {
                            "Well": well,
                            "Field": site,
                            "Wavelength": wave,
                            "Timepoint": 0,
                            "ZIndex": step,
                            "ImageSubFolderPath": "timepoint0",
                            "ImageFileName": name,
                        }
                    )
    write_table(folder / "image_metadata_1.csv", rows)
    waves = [{"Index": i, "EmissionFilter": {"Name": n}} for i, n in enumerate(("TL", "FITC"))]
    stack = {
        "SpecimenHolder": {"Barcode": barcode},
        "ImageMetadataFiles": ["image_metadata_1.csv"],
        "AutoLeadAcquisitionProtocol": {"Wavelengths": waves[::-1]},
    }
    (folder / "scan.jdce").write_text(json.dumps({"ImageStack": stack}), encoding="utf-8")
    return folder


BTS = "http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"


def write_cellvoyager(
    folder: Path,
    *,
    plate: str = "QC60",
    planes: int = 1,
    suffix: str = ".tif",
    settings: bool = True,
) -> Path:
    """Write a measurement of channels 1 and 4, of four that the settings name; return its folder.

    Tags are 1000 * well + 100 * field + 10 * plane + channel, wells counted from 0.
    """
    records = [
        '<bts:MeasurementRecord bts:Type="ERR" bts:Row="2">AF failed</bts:MeasurementRecord>'
    ]
    for w, (row, column) in enumerate(((2, 6), (3, 11))):
        for field in (1, 2):
            for plane in range(1, planes + 1):
                for channel in (1, 4):
                    well = f"{'ABCD'[row - 1]}{column:02d}"
                    name = f"{plate}_{well}_T0001F{field:03d}L01A01Z{plane:02d}C{channel:02d}"
                    path = folder / f"{name}{suffix}"
                    tag = 1000 * w + 100 * field + 10 * plane + channel
                    write_tagged(path.with_suffix(".tif"), tag)
                    if suffix == ".png":
                        path.with_suffix(".tif").unlink()
                        path.write_bytes(imagecodecs.png_encode(tagged(tag)))
                    records.append(
                        f'<bts:MeasurementRecord bts:Type="IMG" bts:Column="{column}" '
                        f'bts:Row="{row}" bts:TimePoint="1" bts:FieldIndex="{field}" '
                        f'bts:ZIndex="{plane}" bts:ActionIndex="1" bts:Z="-16.0" '
                        f'bts:Ch="{channel}">{name}.tif</bts:MeasurementRecord>'
                    )
    head = '<?xml version="1.0" encoding="utf-8"?>'
    (folder / "MeasurementData.mlf").write_text(
        f'{head}<bts:MeasurementData xmlns:bts="{BTS}">{"".join(records)}</bts:MeasurementData>',
        encoding="utf-8",
    )
    listed = "".join(f'<bts:MeasurementChannel bts:Ch="{c}"/>' for c in (1, 2, 3, 4))
    (folder / "MeasurementDetail.mrf").write_text(
        f'{head}<bts:MeasurementDetail xmlns:bts="{BTS}" '
        f'bts:MeasurementSettingFileName="p.mes"><bts:MeasurementSamplePlate bts:Name="{plate}"/>'
        f"{listed}</bts:MeasurementDetail>",
        encoding="utf-8",
    )
    targets = "".join(
        f'<bts:Channel bts:Ch="{c}" bts:Target="{t}"/>'
        for c, t in ((1, "DAPI"), (2, "GFP"), (3, "RFP"), (4, "Cy5"))
    )
    if settings:
        (folder / "p.mes").write_text(
            f'{head}<bts:MeasurementSetting xmlns:bts="{BTS}"><bts:ChannelList>{targets}'
            "</bts:ChannelList></bts:MeasurementSetting>",
            encoding="utf-8",
        )
    return folder


def label_omezarr(group: zarr.Group, version: str, **metadata: Any) -> None:
    """Write a group's metadata where its version has them."""
    if version == "0.4":
        group.attrs.update({key: {**value, "version": version} for key, value in metadata.items()})
    else:
        group.attrs.update({"ome": {"version": version, **metadata}})


def write_omezarr(
    folder: Path,
    sites: pd.DataFrame,
    pixels: np.ndarray,
    version: str,
    *,
    axes: str = "tczyx",
    channels: tuple[str, ...] = ("DAPI", "Tubulin", "Actin"),
) -> None:
    """Write sites of one plate, (n, C, H, W), as the specification has it."""
    kind = {"0.4": 2, "0.5": 3}[version]
    plate = zarr.open_group(folder, mode="w", zarr_format=kind)
    wells = list(dict.fromkeys(sites["Metadata_Well"]))
    paths = {well: f"{well[0]}/{int(well[1:])}" for well in wells}
    named = {
        "name": sites["Metadata_Plate"].iloc[0],
        "wells": [{"path": p} for p in paths.values()],
    }
    label_omezarr(plate, version, plate=named)
    for row in sorted({well[0] for well in wells}):
        plate.create_group(row)
    for well in wells:
        own = np.flatnonzero(sites["Metadata_Well"] == well)
        numbers = [str(sites["Metadata_Site"].iloc[i]) for i in own]
        group = plate.create_group(paths[well])
        label_omezarr(group, version, well={"images": [{"path": number} for number in numbers]})
        for number, i in zip(numbers, own, strict=True):
            image = group.create_group(number)
            scales = {"axes": [{"name": n} for n in axes], "datasets": [{"path": "0"}]}
            omero = {"channels": [{"label": channel} for channel in channels]}
            if version == "0.4":
                image.attrs.update({"multiscales": [scales], "omero": omero})
            else:
                image.attrs.update(
                    {"ome": {"version": version, "multiscales": [scales], "omero": omero}}
                )
            stored = pixels[i].reshape(*(1 for name in axes if name in "tz"), *pixels[i].shape)
            if axes == "tczyx":
                stored = pixels[i][None, :, None]
            separator = {"name": "v2" if kind == 2 else "default", "separator": "/"}
            array = image.create_array(
                "0",
                shape=stored.shape,
                chunks=(*(1 for _ in stored.shape[:-2]), 32, 32),
                dtype=stored.dtype,
                chunk_key_encoding=separator,
            )
            array[...] = stored


def write_lif(path: Path, stacks: dict[str, np.ndarray], channels: tuple[str, ...]) -> None:
    """Write a file of Leica's, version 2, of positions (Z, C, H, W) with pixels of half a um."""

    def block(content: bytes) -> bytes:
        return struct.pack("<II", 0x70, len(content)) + content

    def text(value: str) -> bytes:
        return b"*" + struct.pack("<I", len(value)) + value.encode("utf-16-le")

    elements, memory = [], b""
    for number, (name, stack) in enumerate(stacks.items()):
        described = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" Min="0" Max="1" '
            f'Unit="" NameOfMeasuredQuantity="" LUTName="{channel}" IsLUTInverted="0" '
            f'BytesInc="{stack.strides[1] * c}" BitInc="0"/>'
            for c, channel in enumerate(channels)
        )
        sizes = "".join(
            f'<DimensionDescription DimID="{one}" NumberOfElements="{stack.shape[axis]}" '
            f'Origin="0" Length="{(stack.shape[axis] - 1) * 0.5e-6}" Unit="m" BitInc="0" '
            f'BytesInc="{stack.strides[axis]}"/>'
            for one, axis in ((1, 3), (2, 2), (3, 0))
        )
        elements.append(
            f'<Element Name="{name}" UniqueID="{number:08d}"><Data><Image><ImageDescription>'
            f"<Channels>{described}</Channels><Dimensions>{sizes}</Dimensions></ImageDescription>"
            f'</Image></Data><Memory Size="{stack.nbytes}" MemoryBlockID="M{number}"/></Element>'
        )
        pixels = stack.astype("<u2").tobytes()
        memory += block(b"*" + struct.pack("<Q", len(pixels)) + text(f"M{number}")) + pixels
    inside = f'<Memory Size="0" MemoryBlockID="M"/><Children>{"".join(elements)}</Children>'
    inside = f"<Data><Experiment/></Data>{inside}"
    header = f'<LMSDataContainerHeader Version="2"><Element Name="{path.name}">{inside}</Element>'
    path.write_bytes(block(text(header + "</LMSDataContainerHeader>")) + memory)
