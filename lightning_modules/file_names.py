"""Names of files that are written one an image: any image id becomes the name of a file in one flat folder."""

import hashlib
from urllib.parse import quote

# Most file systems take 255 bytes; the rest is left to suffixes, also to those of temporary files.
LONGEST = 200
# What else is written into such a folder.
RESERVED = ("contact_sheet",)


def file_name(image_id: str, *, suffix: str) -> str:
    """A file's name that no other image id gives: "nih/0001_000" → "nih%2F0001_000.png".

    Letters, digits and "_.-~" stay, all else becomes the percent-encoded bytes of UTF-8, so that
    `urllib.parse.unquote` gives the id back. So do a first dot (hidden files, "..") and the first letter of a RESERVED
    name. Of what is longer than LONGEST the beginning stays, and "%-" with the sha256 of the id follows.

    Args:
        image_id: any text but "".
        suffix: with its dot.

    Raises:
        ValueError: for an id "".
    """
    if not image_id:
        raise ValueError(f'the image id is "": it cannot name a file *{suffix}; give each row an image_id')
    name = quote(image_id, safe="")
    if name.startswith(".") or name.lower() in RESERVED:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > LONGEST:
        digest = hashlib.sha256(image_id.encode()).hexdigest()[:32]
        name = f"{name[: LONGEST - len(digest) - 2]}%-{digest}"
    return name + suffix
