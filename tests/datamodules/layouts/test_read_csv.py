"""Tables as text: what is cut off, damaged or no table is an error that names the row."""

import gzip

import pytest

from datamodules.layouts.source import read_csv, read_start, read_text


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,3\n4,5\n", r"row 3 has fewer fields than the header \(1 rows do\)"),
        ("a,b,c\n4\n1,2,3\n4,5\n", r"row 2 has fewer fields than the header \(2 rows do\)"),
        ('a,b,c\n1,"x\ny,z",3\n\n4,5\n', r"row 3 has fewer fields"),
        ("a,b,c\n1,2,3\n4,5,6,7\n", r"cannot be read as a table"),
        ('a,b,c\n1,2,3\n4,5,"6\n', r"cannot be read as a table"),
    ],
)
def test_rows_that_do_not_fit_the_header(tmp_path, name, text, message):
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ValueError, match=f"{name}: {message}.*; fetch the file again"):
        read_csv(tmp_path / name)


def test_empty_fields_are_no_fault(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa,b,c\r\n1,2,\r\n\r\n,,\r\n"x, ""y""\n",,3\r\n')
    assert read_csv(tmp_path / "a.csv").to_numpy().tolist() == [["1", "2", ""], ["", "", ""], ['x, "y"\n', "", "3"]]


def test_a_header_that_is_longer_than_the_rows(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c,,,\n1,2,\n4,5,\n")
    assert read_csv(tmp_path / "a.csv", first=3).shape == (2, 3)
    (tmp_path / "a.csv").write_text("a,b,c,,,\n1,2,\n4,5\n")
    with pytest.raises(ValueError, match="row 3 has fewer fields"):
        read_csv(tmp_path / "a.csv", first=3)
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"a.csv: cannot be read as a table .*columns.*; fetch the file again"):
        read_csv(tmp_path / "a.csv", first=3)


def test_texts_name_their_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffgrün\n".encode())
    assert read_text(tmp_path / "a.txt") == "grün\n"
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"plain"))
    assert read_text(tmp_path / "a.txt.gz") == "plain"
    (tmp_path / "a.txt").write_bytes(b"gr\xfcn")
    with pytest.raises(ValueError, match=r"a.txt: is not UTF-8 at byte 2; fetch"):
        read_text(tmp_path / "a.txt")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"plain")[:-9])
    with pytest.raises(ValueError, match=r"a.txt.gz: cannot be unpacked .*; fetch"):
        read_text(tmp_path / "a.txt.gz")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "a,b\n1,\n"])
def test_what_a_browser_unpacked_or_a_user_renamed_is_read_as_it_is(tmp_path, text):
    plain, packed = tmp_path / "plain.csv.gz", tmp_path / "packed.csv"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, packed):
        table = read_csv(path, columns=("a", "b"))
        assert table.to_csv(index=False, lineterminator="\n") == text
        assert read_text(path) == text
        assert read_start(path, size=3) == "a,b"
    packed.write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(ValueError, match=r"packed.csv: cannot be read as a table .*; fetch the file again"):
        read_csv(packed)
    plain.write_bytes(b"")
    with pytest.raises(ValueError, match=r"plain.csv.gz: is empty; fetch the file again"):
        read_csv(plain)
    assert read_start(plain) == ""


def test_what_has_one_column_where_several_are_wanted_is_no_table(tmp_path):
    (tmp_path / "a.csv.gz").write_text("<!DOCTYPE html>\n<p>Log in</p>\n")
    with pytest.raises(ValueError, match=r"cannot be read as a table \(it begins with '<!DOCTYPE html>'\); fetch the"):
        read_csv(tmp_path / "a.csv.gz", columns=("a", "b"))
    assert read_csv(tmp_path / "a.csv.gz").shape == (1, 1)


def test_all_missing_columns_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"a.csv: columns 'c', 'd' are missing; it has \['a', 'b'\]; take the file as"):
        read_csv(tmp_path / "a.csv", columns=("c", "a", "d"))
    with pytest.raises(ValueError, match=r"a.csv: column 'c' is missing; it has \['a', 'b'\]; take the file as"):
        read_csv(tmp_path / "a.csv", columns=("c", "a"))
