"""A lost closing quote in a CSV: rows inside of a text are found, reports of several lines are none."""

import pytest

from datamodules import layouts
from datamodules.phantom import disk

ROWS = ["i/a1.png,{}Clear lungs.{},p1", "i/a2.png,{}Small effusion.{},p2", "i/a3.png,{}Normal.{},p3"]
ROWS += ["i/a4.png,plain,p4"]


def read(folder, rows: list[str], header: str = "image,report,patient", **options):
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return layouts.read("table", folder, images=False, **options)


def quoted(lost: int) -> list[str]:
    return [row.format('"', "" if n == lost else '"') for n, row in enumerate(ROWS)]


def test_a_row_that_was_swallowed_is_named(tmp_path):
    assert len(read(tmp_path, quoted(-1))) == 4
    message = r"t.csv: row 2: column 'report' holds a line that looks like a row of the table \('i/a2.png,.*close the q"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, quoted(0))
    with pytest.raises(ValueError, match=r"t.csv: row 3: column 'report' holds a line .*'i/a3.png,Normal"):
        read(tmp_path, quoted(1))
    with pytest.raises(ValueError, match=r"t.csv: cannot be read .*row 2 has more fields than the header: a text with"):
        read(tmp_path, [*quoted(0)[:1], 'i/a2.png,"Small effusion, left.",p2', *quoted(0)[2:]])


def test_where_the_image_comes_last(tmp_path):
    rows = ['"one,p1,a1.png', '"two",p2,a2.png', '"three",p3,a3.png']
    with pytest.raises(ValueError, match=r"row 2: column 'report' holds a line .*'one,p1,a1.png'"):
        read(tmp_path, rows, header="report,patient,image")


def test_names_without_a_suffix_need_a_whole_row(tmp_path):
    rows = ['1.2.840.11,"Line one', "1.2.840.12,plain,p2", '1.2.840.13,"three",p3', "1.2.840.14,four,p4"]
    with pytest.raises(ValueError, match=r"row 2: column 'report' holds a line .*'1.2.840.12,plain,p2'"):
        read(tmp_path, rows)
    healthy = ['1.2.840.11,"Level 1.2.840.13, see above,\nT11, T12, L1\n2015, 2016, 2017",p1']
    assert read(tmp_path, healthy).frame["report"].tolist() == [
        "Level 1.2.840.13, see above,\nT11, T12, L1\n2015, 2016, 2017"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "FINDINGS: Lungs clear, heart normal.\nNo effusion, no fracture.\n\nIMPRESSION: Normal, stable.",
        "Heart, lungs\nbones, soft tissues, p2\n1, 2, 3",
        "Files:\nsee a1.png for the comparison, unchanged.\n",
        'The ""apical"" line,\nleft, 2 cm, p3',
    ],
)
def test_reports_of_several_lines_are_none(tmp_path, text):
    rows = [f'i/a{n}.png,"{text}",p{n}' for n in range(3)]
    assert read(tmp_path, rows).frame["report"].eq(text.replace('""', '"').strip()).all()


def test_a_phantoms_table_is_whole(tmp_path):
    disk.write("table", tmp_path, studies=12, size=16)
    assert "\n" in (report := layouts.read("table", tmp_path).frame["report"][0])
    assert "," in report or "." in report
