"""Hand-made folders of the Indiana collection in both editions, and what the tests compare of a ledger."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def xml(study: str, sections: dict[str, str], tags: list[str], images: list[str], caption: str = "") -> bytes:
    texts = "".join(f'<AbstractText Label="{k}">{v}</AbstractText>' for k, v in sections.items())
    majors = "".join(f"<major>{tag}</major>" for tag in tags)
    parents = "".join(f'<parentImage id="{image}"><caption>{caption}</caption></parentImage>' for image in images)
    return (
        f'<eCitation><uId id="{study}"/><Abstract>{texts}</Abstract><MeSH>{majors}</MeSH>{parents}</eCitation>'.encode()
    )


OPENI = {
    "1": xml("CXR1", {"FINDINGS": "Clear  lungs.", "IMPRESSION": "Normal."}, ["normal"], ["CXR1_a", "CXR1_b"]),
    "2": xml("CXR2", {"IMPRESSION": "Effusion."}, ["Pleural Effusion/left", "Density/lung/base"], []),
    "3": xml("CXR3", {"FINDINGS": "Calcified granuloma."}, ["Calcified Granuloma/lung"], ["CXR3_a"]),
    "4": xml("CXR4", {"FINDINGS": "", "IMPRESSION": ""}, ["No Indexing"], []),
    "5": xml("CXR5", {"FINDINGS": "Nodule."}, ["No Indexing"], []),
    "6": xml("CXR6", {"FINDINGS": "Mass."}, ["Nodule/lung/upper lobe/right", "Costophrenic Angle/blunted"], []),
}


def write_openi(folder: Path, documents: dict[str, bytes] = OPENI) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "NLMCXR_reports.tgz", "w:gz") as tar:
        for name, data in documents.items():
            member = tarfile.TarInfo(f"ecgen-radiology/{name}.xml")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


def ledger(remarks) -> dict[str, tuple]:
    return {r.reason: (r.level, r.ids) for r in remarks}


REPORTS = "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
KAGGLE = (
    REPORTS + "1,normal,normal,PA and lateral,XXXX,None.,The heart XXXX normal.,Normal.\n"
    '2,"Cardiomegaly/mild;Catheters, Indwelling/right",Cardiomegaly,AP,,,Large heart.,\n'
    "3,No Indexing,No Indexing,,,,,Clear.\n"
)
PROJECTIONS = (
    "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Frontal\n1,1_IM-0001-3001.dcm.png,Lateral\n"
    "2,2_IM-0652-1001.dcm.png,Frontal\n3,3_IM-1384-1001.dcm.png,Frontal\n"
)


def write_kaggle(folder: Path, reports: str = KAGGLE, projections: str = PROJECTIONS) -> Path:
    (folder / "images" / "images_normalized").mkdir(parents=True)
    (folder / "indiana_reports.csv").write_text(reports)
    (folder / "indiana_projections.csv").write_text(projections)
    for name in ("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001", "3_IM-1384-1001"):
        Image.new("L", (8, 8)).save(folder / "images" / "images_normalized" / f"{name}.dcm.png")
    return folder
