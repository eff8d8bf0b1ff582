"""A written report: what was asked, and what was found in it."""

from dataclasses import dataclass

from datamodules.reports.keywords import Keywords, Verification, verify
from lightning_modules.networks.copying import CopiedNgrams
from lightning_modules.networks.text_checks import faults


@dataclass(frozen=True)
class Request:
    """What one text is to say.

    Attributes:
        keywords: the words asked for.
        view: of the picture: "PA", "AP", "LATERAL", "unknown".
        drawable: whether comparisons, hedges, history and advice are faults.
        source: the report that is rewritten, "" where none is.
    """

    keywords: Keywords
    view: str = "unknown"
    drawable: bool = False
    source: str = ""


@dataclass(frozen=True)
class Written:
    """One written report and what was found in it.

    Attributes:
        report: the text.
        request: what was asked.
        check: what is missing, contradicting or unasked, as the mention extractor sees it.
        faults: words of another view, blanks, repetitions, fragments, and what cannot be drawn where that counts.
        attempts: how many texts were written for it; one written sentence by sentence counts once.
        guided: whether it was written sentence by sentence.
        copied: runs of eight words that stand in a training report; 0 where these are not known.
    """

    report: str
    request: Request
    check: Verification
    faults: tuple[str, ...]
    attempts: int = 1
    guided: bool = False
    copied: int = 0

    @property
    def verified(self) -> bool:
        """Whether everything asked is stated, no pathology is denied or added, and there is no other fault."""
        return bool(self.report) and self.check.verified and not self.faults

    @property
    def severity(self) -> tuple[int, int]:
        """Contradictions and additions weigh more than omissions: a wrong text misleads, a short one says less."""
        wrong = len(self.check.contradicting) + len(self.check.unasked) + len(self.faults)
        return (2 * wrong + len(self.check.missing) + (0 if self.report else 100), len(self.check.missing))


def read_back(
    report: str, request: Request, *, known: frozenset[str] | None = None, training: CopiedNgrams | None = None
) -> Written:
    """Check a text against what was asked.

    Args:
        report: the text.
        request: what was asked.
        known: the words that may be written, None allows all.
        training: the runs of words of the training reports, None where these are not known.
    """
    return Written(
        report,
        request,
        verify(report, request.keywords),
        faults(report, view=request.view, drawable=request.drawable, known=known),
        copied=training.count(report) if training is not None else 0,
    )
