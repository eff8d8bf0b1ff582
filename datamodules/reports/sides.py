"""Exchanging left and right in a report, for a picture that was mirrored.

A mirrored radiograph shows a patient with situs inversus, so the words for what is left and right change places, those
for organs included ("left ventricle"), and words that name an organ of one side without saying so (lingula, aortic
knob, stomach bubble) stay: the organ has moved with the picture. The middle lobe moves too: "right middle lobe" becomes
"left middle lobe" and RML becomes LML, a name that only a mirrored patient needs.

What is swapped without understanding the sentence: "right" for correct and "left" for departed. What is left alone:
words that only hold these letters (upright, bright, leftover), LT and RT in capitals (RT is also radiotherapy), LA and
RA (also rheumatoid arthritis, room air), and a single L or R without one of the words of `AFTER_LETTER` behind it or a
comparison ("L > R") around it: L1 is a vertebra, "2.5 L" a volume.
"""

import re

# Pairs in small letters; each is also swapped in capitals and with a capital first letter.
WORDS = (
    ("left", "right"),
    ("leftward", "rightward"),
    ("leftwards", "rightwards"),
    ("leftmost", "rightmost"),
    ("leftsided", "rightsided"),
    # A curve is named by the side of its bulge.
    *(
        (f"levo{rest}", f"dextro{rest}")
        for rest in (
            "cardia",
            "convex",
            "convexity",
            "curvature",
            "curve",
            "position",
            "positioned",
            "rotation",
            "rotoscoliosis",
            "scoliosis",
            "scoliotic",
        )
    ),
)
# After L or R, in small letters and in capitals.
ABBREVIATIONS = (
    *("LL", "UL", "ML", "LZ", "UZ", "MZ"),  # lobes, zones
    *("V", "VH", "VAD", "PA"),  # ventricles, pulmonary arteries
    *("UQ", "LQ", "UE", "LE", "IJ", "LD", "AO", "PO"),  # quadrants, limbs, jugular vein, decubitus and oblique views
)
AFTER_LETTER = (
    *("apex", "apical", "arm", "axilla", "axillary", "base", "basal", "basilar", "breast", "cardiac", "chest"),
    *("clavicle", "costophrenic", "cp", "diaphragm", "effusion", "heart", "hemidiaphragm", "hemithorax"),
    *("hilar", "hilum", "humerus", "ij", "internal", "jugular", "lateral", "lobe", "lower", "lung", "main"),
    *("mainstem", "mid", "middle", "perihilar", "picc", "pleural", "pneumothorax", "port", "ptx"),
    *("retrocardiac", "rib", "ribs", "scapula", "shoulder", "side", "sided", "subclavian", "upper"),
    *("ventricle", "ventricular"),
)


def _pairs() -> dict[str, str]:
    swap: dict[str, str] = {}
    for one, other in WORDS:
        for a, b in ((one, other), (one.title(), other.title()), (one.upper(), other.upper())):
            swap |= {a: b, b: a}
    for rest in ABBREVIATIONS:
        for a, b in ((f"L{rest}", f"R{rest}"), (f"L{rest}".lower(), f"R{rest}".lower())):
            swap |= {a: b, b: a}
    return swap | {"lt": "rt", "rt": "lt", "Lt": "Rt", "Rt": "Lt", "L": "R", "R": "L"}


SWAP = _pairs()
# A run of letters: "left-sided", "left/right" and "___left" hold whole words, "leftover" and "upright" do not.
WORD = re.compile(r"[^\W\d_]+")
_BEFORE = re.compile(r"(?<![^\W_])[LR]\s{0,3}[<>=]{1,2}\s{0,3}\Z")
_BEHIND = re.compile(rf"\s*[<>=]+\s*[LR](?![^\W_])|[\s\-]+(?:{'|'.join(AFTER_LETTER)})(?![^\W_])", re.IGNORECASE)


def swap_sides(text: str) -> str:
    """The report of the mirrored picture; applied twice it gives the text back.

    Args:
        text: any text, see the module's docstring for what counts as a side.

    Returns:
        The text with left and right exchanged, case kept; all other characters as they were.
    """
    return WORD.sub(_swap, text)


def _swap(match: re.Match[str]) -> str:
    word = match[0]
    if len(word) == 1 and not _is_side(match):
        return word
    return SWAP.get(word, word)


def _is_side(match: re.Match[str]) -> bool:
    """Whether a single letter stands for a side; says the same of the swapped text, since it takes L and R alike."""
    text, start, end = match.string, match.start(), match.end()
    alone = text[start - 1 : start] not in tuple("0123456789_") and text[end : end + 1] not in tuple("0123456789_")
    return alone and bool(_BEHIND.match(text, end) or _BEFORE.search(text, max(start - 9, 0), start))
