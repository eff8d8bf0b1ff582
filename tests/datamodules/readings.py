"""What the extractor reads of a text, as the tests write it down."""

from datamodules.reports.mentions import extract


def pathologies(text: str) -> list[tuple[str, str, str | None, str | None]]:
    """Word, status, side and severity of each pathology, in the order of the text."""
    return [(m.word, m.status, m.side, m.severity) for m in extract(text) if m.kind == "pathology"]
