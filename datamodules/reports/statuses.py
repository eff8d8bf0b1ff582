"""Which pathologies one sentence names, and whether it says that they are present, absent or uncertain.

The scope rules of NegEx (Chapman et al., 2001) and ConText (Harkema et al., 2009): a cue acts forwards or backwards
until a terminator, a verb or the end.
"""

from datamodules.reports.modifiers import JOINTS, Finding, Sentence, Status
from datamodules.reports.phrases import Match

# First words of phrases that speak of the past, which a new statement ends; what an examination asks goes on.
PAST = frozenset(
    ["history", "hx", "h", "known", "past", "status", "prior", "previously", "treated", "patient", "remote"]
)
# A sign that "represents a versus b" is not in doubt.
CONCLUDING = frozenset(["represent", "represents", "representing", "reflect", "reflects", "reflecting", "concerning"])


def find_pathologies(sentence: Sentence) -> list[Finding]:
    """The pathologies of a sentence in its order; what only the history or the question asked names is left out."""
    reader = _Reader(sentence)
    found = reader.forward()
    reader.backward(found)
    return sorted((f for f in found if not f.history), key=lambda f: f.first)


class _Reader:
    """The two passes over one sentence."""

    def __init__(self, sentence: Sentence) -> None:
        self.sentence = sentence
        self.tokens, self.matches, self.words = sentence.tokens, sentence.matches, sentence.words
        self.at, self.cover = sentence.at, sentence.cover
        self.alternatives = [i for i, t in enumerate(self.tokens) if t.text in ("or", "nor")]

    def _starts_statement(self, i: int) -> bool:
        """Whether what follows the joint at token i is a new statement and not the next of a negated list."""
        if i + 1 >= len(self.tokens):
            return True
        if self.tokens[i].text == "/":
            return False
        if any(k >= i for k in self.alternatives):
            return False
        after = self.at.get(i + 1)
        # "No pneumothorax, effusion is small": a finding with its own verb and degree.
        if after is not None and after.value("pathology") and self._is_graded(after.last):
            return True
        # "No consolidation, large effusion/pneumothorax": what is denied is seldom small.
        if after is not None and after.value("severity") == "large" and self.tokens[-2].text == "/":
            return False
        new = after is not None and (
            after.value("severity") is not None or after.value("uncertain_adjective") is not None
        )
        return new or self.tokens[i + 1].text in self.words.functions["articles"]

    def _is_graded(self, i: int) -> bool:
        """Whether a verb and a severity stand at token i."""
        degree = self.at.get(i + 1)
        return i < len(self.tokens) and self.sentence.verb(i) and degree is not None and bool(degree.value("severity"))

    def forward(self) -> list[Finding]:
        """Pathologies with the status that cues before them give."""
        found: list[Finding] = []
        absent = adjective = uncertain = listing = clause = False
        history: Match | None = None
        i = 0
        while i < len(self.tokens):
            match = self.at.get(i)
            if match is None:
                text = self.tokens[i].text
                if self.sentence.verb(i):
                    absent, adjective, uncertain, clause = absent and clause, False, False, False
                elif text in JOINTS:
                    adjective = adjective and text in ("or", "/")
                    if self._starts_statement(i):
                        absent = False
                        uncertain = listing
                        if history is not None and self.tokens[history.first].text in PAST:
                            history = None
                i += 1
                continue
            for role in match.roles:
                if role.kind == "terminators":
                    absent = adjective = uncertain = listing = clause = False
                    history = None
                elif role.kind == "absent_before" and not self._closes(match):
                    absent = True
                    # "No evidence that the heart is enlarged": the verb of what is denied does not end it.
                    clause = self.tokens[match.last - 1].text in ("that", "the")
                elif role.kind == "uncertain_adjective" and not self._closes(match):
                    adjective = True
                elif role.kind == "uncertain_before":
                    uncertain = True
                    # "No opacity is seen to suggest pneumonia": what is denied suggests nothing.
                    to = match.first > 0 and self.tokens[match.first - 1].text == "to"
                    absent |= to and bool(found) and found[-1].status == "absent"
                    # "The differential includes pneumonia, a mass and edema": none of a list is sure.
                    listing |= any(self.tokens[k].text == "differential" for k in range(match.first, match.last))
                    # "No effusion, cannot exclude pneumonia": the later cue rules what follows it.
                    absent = absent and match.last - match.first == 1
                elif role.kind == "history":
                    history = match
            status: Status = "absent" if absent else "uncertain" if adjective or uncertain else "present"
            asked = history is not None
            for role in match.roles:  # a hydropneumothorax is two
                if role.kind == "pathology":
                    found.append(Finding(match.first, match.last, match.first, role.value, status, history=asked))
            quality = match.value("quality")
            if quality is not None:
                if quality == "normal" and any(t.text == "normal" for t in self.tokens[match.first : match.last]):
                    self._deny_normal(match, found)
                found += self._compose(match, quality, status, asked)
            i = match.last
        return found

    def _closes(self, match: Match) -> bool:
        """Whether a cue that may stand on either side stands behind what it rules: nothing follows it in its clause."""
        if not any(role.kind.endswith("_after") for role in match.roles):
            return False
        return (
            match.last == len(self.tokens)
            or self.tokens[match.last].text in (",", ")")
            or self.sentence.ends(match.last)
        )

    def _deny_normal(self, match: Match, found: list[Finding]) -> None:
        """A pathology that is itself within normal limits is none: "vascular engorgement is within normal limits"."""
        i = match.first - 1
        while i >= 0 and self.cover[i] is None and self.sentence.verb(i):
            i -= 1
        if found and i < match.first - 1 and found[-1].last == i + 1:
            found[-1].status, found[-1].fixed = "absent", True

    def _compose(self, match: Match, quality: str, status: Status, history: bool) -> list[Finding]:
        rules = [r for r in self.words.composed if quality in r.present | r.uncertain | r.absent]
        if not rules:
            return []
        found = []
        for other in self._subjects(match):
            for rule in rules:
                if other.value("anatomy") not in rule.anatomy:
                    continue
                fixed = quality in rule.absent
                own: Status = "absent" if fixed else status
                if quality in rule.uncertain and status == "present":
                    own = "uncertain"
                first, last = min(match.first, other.first), max(match.last, other.last)
                found.append(Finding(first, last, match.first, rule.word, own, fixed, history))
        return found

    def _subjects(self, match: Match) -> list[Match]:
        """The anatomy phrases that a quality speaks of: right after it, else the subject before it."""
        subjects: list[Match] = []
        i = match.last
        while i < len(self.tokens):
            after, text = self.at.get(i), self.tokens[i].text
            if after is not None and after.value("anatomy") is not None and after.value("pathology") is None:
                subjects.append(after)
                i = after.last
            elif (
                (after is not None and after.value("side"))
                or text in self.words.functions["fillers"]
                or (subjects and text in JOINTS)
            ):
                i += 1
            else:
                break
        if subjects:
            return subjects
        verbs, i = 0, match.first - 1
        between: list[str] = []
        while i >= 0:
            before, text = self.cover[i], self.tokens[i].text
            if before is None:
                verbs += self.sentence.verb(i)
                if verbs > 1:
                    break
                between.append(text)
                i -= 1
                continue
            if self.sentence.ends(i):
                break
            # "The aorta is tortuous and calcified": both are said of it.
            quality = before.value("quality") is not None and before.value("severity") is None
            if quality and (subjects or between != ["and"]):
                break
            if before.value("pathology") is not None:
                break
            if before.value("anatomy") is not None:
                subjects.append(before)
            i = before.first - 1
        return subjects

    def backward(self, found: list[Finding]) -> None:
        """Let cues that stand behind ("is not seen", "cannot be excluded") act on what precedes them."""
        for match in self.matches:
            kinds = {role.kind for role in match.roles}
            answer = ":" in (self.tokens[match.first].text, self.tokens[match.first - 1].text if match.first else "")
            last = match.last == len(self.tokens)
            if "absent_after" in kinds or ("absent_before" in kinds and answer and last):  # "Pneumothorax: no."
                status: Status = "absent"
            elif "uncertain_after" in kinds:
                status = "uncertain"
            else:
                continue
            both_ways = self.tokens[match.first].text in ("versus", "vs")
            whole = self.tokens[match.first].text == "if"  # "effusions are small if present"
            if kinds & {"absent_before", "uncertain_adjective", "uncertain_before"} and not (
                both_ways or (answer and last) or self._closes(match)
            ):
                continue
            i = match.first - 1
            said, listed = False, answer  # "Pneumothorax, effusion: none"
            while i >= 0 and not self.sentence.ends(i):
                cover = self.cover[i]
                listed |= self.tokens[i].text in ("or", "and", "nor", "/")
                # "Opacity in the right lung, pneumonia is not excluded", but "pneumonia, edema or a mass"
                if said and not listed and self.tokens[i].text == ",":
                    break
                # "Right opacity, atelectasis versus pneumonia": the sign itself is not in doubt.
                if both_ways and (self.tokens[i].text == "," or self.tokens[i].text in CONCLUDING):
                    break
                if cover is None and self.sentence.verb(i) and i < match.first - 1 and not whole:
                    break
                if cover is not None and any(role.kind.endswith("_after") for role in cover.roles):
                    break
                for f in found:
                    if f.first <= i < f.last and not f.fixed and (f.status != "absent" or status == "absent"):
                        f.status = status
                        said = True
                i = cover.first - 1 if cover is not None else i - 1
