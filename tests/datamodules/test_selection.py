"""Which rows are served: the reasons, their order, and where the kept rows stood."""

import pytest

from datamodules.manifest import Remark, make_manifest
from datamodules.selection import select, split_rows, summary


def source():
    rows = [
        {"image": "a.png", "study_id": "s1", "view": "PA", "report": "clear"},
        {"image": "", "study_id": "s1", "view": "PA", "report": "clear"},
        {"image": "c.png", "study_id": "s2", "view": "LATERAL", "report": "clear"},
        {"image": "d.png", "study_id": "s3", "view": "AP", "report": ""},
        {"image": "e.png", "study_id": "s4", "view": "AP", "report": "effusion"},
    ]
    rows = [row | {"image_id": f"i{n}", "patient_id": row["study_id"], "split": "train"} for n, row in enumerate(rows)]
    return make_manifest(rows, source="x", drops=[Remark("lost before", ("z",))])


def test_images():
    manifest, kept = select(source())
    assert manifest.frame["image_id"].tolist() == ["i0", "i2", "i3", "i4"]
    assert manifest.frame.index.tolist() == [0, 1, 2, 3]
    assert kept.tolist() == [0, 2, 3, 4]
    assert [(d.reason, d.ids) for d in manifest.drops] == [("lost before", ("z",)), ("no image", ("i1",))]


def test_views():
    manifest, kept = select(source(), views=["AP"])
    assert kept.tolist() == [3, 4]
    assert [d.ids for d in manifest.drops[1:]] == [("i0", "i1", "i2")]


def refusal(manifest, **options):
    with pytest.raises(ValueError, match="rows is left") as error:
        select(manifest, **options)
    return str(error.value)


def test_views_that_leave_nothing_are_named_beside_those_that_exist():
    assert refusal(source(), views=["unknown"]) == (
        "layout x: none of 5 rows is left: 1 × lost before; 5 × view is not one of ['unknown']; views ['unknown'] were "
        "asked for and there are AP 2, PA 1, LATERAL 1: --data.init_args.views=null takes all (prepare: leave --views "
        "out)"
    )
    # Of texts the views with a report are counted: one AP has none, a PA has one without an image.
    assert "there are PA 2, LATERAL 1, AP 1: --data" in refusal(source(), views=["unknown"], text_only=True)


def test_rows_without_what_is_served_name_the_option_that_serves_them():
    frame = source().frame
    silent, blind = (make_manifest(frame.assign(**{column: ""}), source="x") for column in ("report", "image"))
    assert refusal(silent, text_only=True).endswith(
        "5 × no report; text_only is true and there are 4 rows with an image and 0 with a report: "
        "--data.init_args.text_only=false"
    )
    assert refusal(blind, views=["PA"]).endswith(
        "text_only is false and there are 0 rows with an image and 4 with a report: --data.init_args.text_only=true"
    )
    nothing = make_manifest(frame.assign(report="", image=""), source="x")
    assert refusal(nothing).endswith("0 rows with an image and 0 with a report: name a data set that has one of them")


def test_texts():
    manifest, kept = select(source(), text_only=True)
    assert kept.tolist() == [0, 2, 4]
    reasons = {d.reason: d.ids for d in manifest.drops}
    assert reasons["no report"] == ("i3",)
    assert reasons["another image of a study that is served as text"] == ("i1",)


def test_rows_of_a_split_and_the_limit_of_train():
    rows = [{"image": "a.png", "image_id": f"i{n}", "patient_id": f"p{n}", "split": "train"} for n in range(20)]
    rows.append({"image": "b.png", "image_id": "v", "patient_id": "v", "split": "validate"})
    manifest = make_manifest(rows, source="x")
    assert split_rows(manifest, ["train"], limit=None, seed=0).tolist() == list(range(20))
    few, more = (split_rows(manifest, ["train"], limit=n, seed=1).tolist() for n in (3, 9))
    assert len(few) == 3
    assert set(few) < set(more)
    assert more == sorted(more)
    assert split_rows(manifest, ["train"], limit=3, seed=2).tolist() != few
    assert len(split_rows(manifest, ["validate", "train"])) == 21
    message = r"layout x: no rows in test; the splits hold {'train': 20, 'validate': 1, 'test': 0}"
    with pytest.raises(ValueError, match=message):
        split_rows(manifest, ["test"], limit=None, seed=0)


def test_what_is_said_of_a_data_set():
    rows = [
        {"image": "a.png", "image_id": f"i{n}", "patient_id": f"p{n}", "split": "test" if n > 3 else "train"}
        for n in range(6)
    ]
    drops = [Remark("no image", ("x", "y"))]
    notes = [Remark("odd", ("i1",), "note"), Remark("in two splits", ("i2",), "error", "leave one out")]
    manifest = make_manifest(rows, source="x", drops=drops, notes=notes)
    first = "data: x 64 px: train {}, validate 0, test 2; digest aaaaaaaaaaaa; dropped: 2 × no image"
    error = "data: ERROR in x: 1 × in two splits; leave one out"
    digest = "a" * 64
    assert summary(manifest, size=64, digest=digest, limit=None).split("\n") == [first.format(4), error]
    assert summary(manifest, size=64, digest=digest, limit=3).split("\n") == [first.format("3 of 4"), error]
