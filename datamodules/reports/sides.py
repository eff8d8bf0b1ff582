"""Exchanging left and right in an English or Spanish report, for a picture that was mirrored.

A mirrored radiograph shows a patient with situs inversus, so the words for what is left and right change places, those
for organs included ("left ventricle"), and words that name an organ of one side without saying so (aortic knob, stomach
bubble, corazón) stay: the organ has moved with the picture. Lungs are read by where they are: the right middle lobe
becomes the left lingula and the lingula the middle lobe; only RML becomes LML, a name that only a mirrored patient
needs. Where a report says how the organs lie, that changes: dextrocardia becomes levocardia, situs inversus becomes
situs solitus.

Spanish is written in full, as stems ("derram pleural derech", which is how PadChest stores its reports) or shortened;
each short form of one side stands for one of the other, so that the text can be given back.

What is swapped without understanding the sentence: "right" for correct, "left" for departed, "derecho" for straight.
What is left alone: words that only hold these letters (upright, bright, leftover), drugs (levofloxacin, dextrose), LA
and RA (also rheumatoid arthritis, room air), the Spanish D, I, der, VD and VI (also numbers and other words), and L, R,
LT and RT in capitals (L1 is a vertebra, "2.5 L" a volume, RT also radiotherapy) unless what stands around them says
that a side is meant: one of `AFTER_LETTER` behind, a comparison ("L > R", "R and L"), brackets, "on the" before.
Where a capital is left alone that may yet be a side ("L small effusion"), the text would be swapped by halves or not at
all: `unresolved` tells, and such a report's picture is not to be mirrored.
"""

import re

# What a curve, a rotation or a place may be called after levo- and dextro-.
TURNS = (
    *("cardia", "concave", "concavity", "convex", "convexity", "curvature", "curve", "curved", "position"),
    *("positioned", "rotated", "rotation", "rotoscoliosis", "scolioses", "scoliosis", "scoliotic", "transposition"),
    "version",
)
# The same in Spanish, with and without accents, and stemmed.
GIROS = (
    *("cardi", "conc", "concav", "concava", "concavo", "cóncava", "cóncavo", "concavidad", "convexa", "convexo"),
    *("convexas", "convexidad", "curvatura", "curvatur", "escoliosis", "escoliotic", "escoliotica", "escoliótica"),
    *("posicion", "posición", "rotacion", "rotación", "rrotacion", "rrotación", "rotoescoliosis", "rrotoescoliosis"),
    *("rotad", "rotada", "rotado"),
)
# Pairs in small letters; each is also swapped in capitals and with a capital first letter.
WORDS = (
    *((f"left{rest}", f"right{rest}") for rest in ("", "hand", "most", "side", "sided", "ward", "wards")),
    # A curve is named by the side of its bulge.
    *((f"levo{rest}", f"dextro{rest}") for rest in (*TURNS, *GIROS)),
    # Spanish has a second pair of names; taken as one with the first it could not be given back.
    *((f"sinistro{rest}", f"destro{rest}") for rest in ("convex", *GIROS)),
    ("solitus", "inversus"),
    *((f"izquierd{rest}", f"derech{rest}") for rest in ("", "a", "o", "as", "os")),
    *(("izdo", "dcho"), ("izda", "dcha"), ("izdos", "dchos"), ("izdas", "dchas"), ("izq", "dch")),
    *(("izqdo", "drcho"), ("izqda", "drcha"), ("izqd", "drch")),
    # Lóbulo superior or inferior, hemitórax.
    *(("lsi", "lsd"), ("lii", "lid"), ("hti", "htd")),
)
# After L or R, in small letters and in capitals.
ABBREVIATIONS = (
    *("LL", "UL", "ML", "LZ", "UZ", "MZ"),  # lobes, zones
    *("V", "VH", "VEF", "VAD", "VOT", "PA", "CA", "BBB"),  # ventricles, arteries, bundle branches
    *("MB", "MSB"),  # main bronchi
    *("UQ", "LQ", "UE", "LE", "IJ", "LD", "AO", "PO"),  # quadrants, limbs, jugular vein, decubitus and oblique views
)
AFTER_LETTER = (
    *("ankle", "anterior", "apex", "apical", "arm", "atelectasis", "atrial", "atrium", "axilla", "axillary", "base"),
    *("basal", "basilar", "breast", "bronchus", "cardiac", "carotid", "chest", "clavicle", "consolidation"),
    *("costophrenic", "cp", "diaphragm", "effusion", "effusions", "elbow", "femoral", "flank", "heart"),
    *("hemidiaphragm", "hemithorax", "hilar", "hilum", "hip", "humerus", "hydropneumothorax", "ij", "infiltrate"),
    *("infrahilar", "internal", "jugular", "knee", "lateral", "leg", "lingula", "lingular", "lobe", "lower", "lung"),
    *("main", "mainstem", "mid", "middle", "midlung", "nodule", "opacity", "paratracheal", "parahilar", "perihilar"),
    *("picc", "pigtail", "pleural", "pneumonia", "pneumothorax", "port", "posterior", "ptx", "retrocardiac", "rib"),
    *("ribs", "scapula", "shoulder", "side", "sided", "subclavian", "suprahilar", "thoracentesis", "upper"),
    *("ventricle", "ventricular", "wrist"),
)
# Behind RT in capitals these are what was irradiated.
IRRADIATED = ("axilla", "axillary", "breast", "chest", "hilar", "hilum", "hip", "lung", "nodule", "shoulder")


def _pairs() -> dict[str, str]:
    swap: dict[str, str] = {}
    for one, other in (*WORDS, ("levo", "dextro")):
        for a, b in ((one, other), (one.title(), other.title()), (one.upper(), other.upper())):
            swap |= {a: b, b: a}
    for rest in ABBREVIATIONS:
        for a, b in ((f"L{rest}", f"R{rest}"), (f"L{rest}".lower(), f"R{rest}".lower())):
            swap |= {a: b, b: a}
    for a, b in (("lt", "rt"), ("Lt", "Rt"), ("LT", "RT"), ("L", "R")):
        swap |= {a: b, b: a}
    return swap


SWAP = _pairs()
LETTERS = ("L", "R", "LT", "RT")
# The part of the left lung that the middle lobe is of the right one. In other capitals ("Middle Lobe") it stays, since
# it could not be given back.
LOBES = {
    form(a): form(b)
    for one, other in (("lingula", "middle lobe"), ("lingular", "middle lobar"))
    for a, b in ((one, other), (other, one))
    for form in (str, str.capitalize, str.upper)
}
LOBE = re.compile(rf"(?<![^\W_])(?:{'|'.join(LOBES)})(?![^\W_])")
# A run of letters: "left-sided", "left/right" and "___left" hold whole words, "leftover" and "upright" do not.
WORD = re.compile(r"[^\W\d_]+")
_END = r"(?![^\W_])"
_THAN = r"\s*(?:[<>=]+|[/&]|(?:(?:greater|larger|more|worse|less|smaller) than|and|or|to|versus|vs)\b\.?)\s*"
_OTHER = rf"(?:{'|'.join(LETTERS)})"
_NEAR = 20  # characters that a comparison may take


def _behind(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\.?(?:{_THAN}{_OTHER}{_END}|[\s\-]+(?i:{'|'.join(words)}){_END})")


_BEFORE = re.compile(rf"(?:(?<![^\W_]){_OTHER}\.?{_THAN}|\b(?i:on|to|from|towards?) (?i:the) )\Z")
_BEHIND_LETTER = _behind(AFTER_LETTER)
_BEHIND_CAPITALS = _behind(tuple(word for word in AFTER_LETTER if word not in IRRADIATED))
_SPINE = re.compile(r"[\s\-]+spine", re.IGNORECASE)
# What a capital stands for that is no side: a lumbar vertebra (L1, L4-5, but not "L4 rib"), litres, "rule out", a name.
_VERTEBRA = re.compile(r"[1-6](?!\d)(?![\s\-,&\d]*(?:(?:and|to)[\s\d]*)?ribs?\b)", re.IGNORECASE)
_DECIMAL = re.compile(r"(?<![^\W_])\d+[.,]\d+[\s\-]?\Z")
_NUMBER = re.compile(r"(?<![^\W_])\d+[\s\-]?\Z")
_OF_LITRES = re.compile(r"\s*(?:/\s*min|per\b|of (?!the\b)|O2\b|oxygen|NC\b|nasal|fluid)", re.IGNORECASE)
_RULE_OUT = re.compile(rf"\s?/\s?[Oo]{_END}")
_VITAMIN = re.compile(r"(?<![^\W_])(?i:vitamins?|vit\.?)\s\Z")
_BEHIND_TURN = re.compile(rf"[\s\-]+(?:{'|'.join((*TURNS, *GIROS))}){_END}", re.IGNORECASE)


def swap_sides(text: str) -> str:
    """The report of the mirrored picture; applied twice it gives the text back.

    Args:
        text: any text, see the module's docstring for what counts as a side.

    Returns:
        The text with left and right exchanged, case kept; all other characters as they were.
    """
    return LOBE.sub(lambda match: LOBES[match[0]], WORD.sub(_swap, text))


def unresolved(text: str) -> bool:
    """Whether L, R, LT or RT stands in capitals where `swap_sides` leaves it alone although it may be a side.

    In doubt it says yes ("L small pleural effusion.", "R clear.", also "R. Smith" and RT for radiotherapy), no for what
    can be nothing else: L1, 2.5 L, "2 L of fluid", L-spine, R/O, vitamin R. Of a text and the swapped one it says the
    same.
    """
    return any(match[0] in LETTERS and not _is_side(match) and not _is_other(match) for match in WORD.finditer(text))


def _swap(match: re.Match[str]) -> str:
    word = match[0]
    if word in LETTERS and not _is_side(match):
        return word
    if word.lower() in ("levo", "dextro") and not _BEHIND_TURN.match(match.string, match.end()):
        return word
    return SWAP.get(word, word)


def _is_side(match: re.Match[str]) -> bool:
    """Whether L, R, LT or RT stands for a side; says the same of the swapped text, since it takes both sides alike."""
    text, start, end = match.string, match.start(), match.end()
    before, behind = text[start - 1 : start], text[end : end + 1]
    if before in tuple("0123456789_") or behind in tuple("0123456789_") or _SPINE.match(text, end):
        return False
    if (before, behind) in (("(", ")"), ("[", "]")):
        return True
    follows = (_BEHIND_LETTER if len(match[0]) == 1 else _BEHIND_CAPITALS).match(text, end)
    return bool(follows or _BEFORE.search(text, max(start - _NEAR, 0), start))


def _is_other(match: re.Match[str]) -> bool:
    """Whether L, R, LT or RT, where it is no side that is known as one, is clearly something else."""
    text, word, end = match.string, match[0], match.end()
    before = text[max(match.start() - _NEAR, 0) : match.start()]
    if word == "L":
        litres = _DECIMAL.search(before) or (_NUMBER.search(before) and _OF_LITRES.match(text, end))
        if litres or _VERTEBRA.match(text, end) or _SPINE.match(text, end):
            return True
    return word in ("L", "R") and bool(_VITAMIN.search(before) or (word == "R" and _RULE_OUT.match(text, end)))
