"""Phrase lists: alternatives, sentence ends, and what the file must hold."""

from datamodules.reports.phrases import expand, lexicon, sentences, tokenize


def test_alternatives_are_written_out() -> None:
    assert list(expand("cannot be {|entirely} {excluded|ruled out}")) == [
        "cannot be excluded",
        "cannot be ruled out",
        "cannot be entirely excluded",
        "cannot be entirely ruled out",
    ]
    assert list(expand("pleural effusion")) == ["pleural effusion"]


def test_sentences_end_where_they_do() -> None:
    text = "A 1.5 cm nodule vs. scar.No effusion; clear\n\n  Impression? .. "
    found = list(sentences(text))
    assert [s.strip() for _, s in found] == ["A 1.5 cm nodule vs. scar", "No effusion", "clear", "Impression?"]
    assert all(text[start:].startswith(s) for start, s in found)


def test_tokens_are_lower_case_and_know_their_place() -> None:
    tokens = tokenize(" Left-sided 1.5 cm,")
    assert [t.text for t in tokens] == ["left", "sided", "1.5", "cm", ","]
    assert (tokens[1].start, tokens[1].end) == (6, 11)


def test_a_phrase_may_have_several_meanings() -> None:
    (match,) = lexicon().matches(tokenize("hydropneumothorax"))
    assert [role.value for role in match.roles] == ["pleural effusion", "pneumothorax"]
    (match,) = lexicon().matches(tokenize("bibasilar"))
    assert (match.value("side"), match.value("anatomy"), match.value("severity")) == ("bilateral", "lung base", None)


def test_every_zone_is_one_of_the_seven() -> None:
    zones = {entity.zone for entity in lexicon().entities.values()} - {None}
    assert zones == {"apex", "upper", "mid", "lower", "base", "hilar", "retrocardiac"}
