"""The layout vindr: sizes of pictures, and the boxes of several readers merged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.layouts import vindr
from datamodules.layouts.vindr_boxes import merge, overlap
from datamodules.phantom.disk.common import save_picture
from tests.datamodules.layouts.vindr_case import remark, save


def test_boxes_are_fractions_of_width_and_height(tmp_path):
    manifest = vindr.read(save(tmp_path))
    (box,) = manifest.boxes(0)
    assert box.finding == "Cardiomegaly"
    np.testing.assert_allclose((box.x0, box.y0, box.x1, box.y1), (22 / 200, 42 / 100, 62 / 200, 82 / 100))


def test_without_pictures_boxes_need_a_table_of_sizes(tmp_path):
    save(tmp_path)
    manifest = vindr.read(tmp_path, images=False)
    assert manifest.frame[["image", "boxes"]].iloc[0].tolist() == ["", ""]
    unsized = remark(manifest, "the original picture's size is not known; its boxes were left out")
    assert (unsized.ids, unsized.level) == (("a",), "warning")
    assert "layout_options.sizes: a table of image_id, width, height" in unsized.mend
    (tmp_path / "sizes.csv").write_text("image_id,width,height\na,200,100\n")
    (tmp_path / "meta.csv").write_text("image_id,dim0,dim1\na,100,200\n")
    boxes = [vindr.read(tmp_path, images=images, sizes=name).boxes(0) for images, name in [(True, None)]]
    boxes += [vindr.read(tmp_path, images=False, sizes=name).boxes(0) for name in ("sizes.csv", "meta.csv")]
    boxes.append(vindr.read(tmp_path, images=False, sizes=str(tmp_path / "sizes.csv")).boxes(0))
    assert len(boxes[0]) == 1
    assert boxes[0] == boxes[1] == boxes[2] == boxes[3]


def test_copies_in_another_format_have_the_size_of_the_original_from_the_table(tmp_path):
    save(tmp_path)
    (tmp_path / "train" / "a.dicom").unlink()
    save_picture(np.arange(50, dtype=np.uint8).reshape(5, 10), tmp_path / "train" / "a.png")
    manifest = vindr.read(tmp_path)
    assert manifest.frame["image"].iloc[0].endswith("a.png")
    assert remark(manifest, "the original picture's size is not known; its boxes were left out").ids == ("a",)
    (tmp_path / "sizes.csv").write_text("image_id,width,height\na,200,100\n")
    assert vindr.read(tmp_path, sizes="sizes.csv").boxes(0)[0].x0 == pytest.approx(22 / 200)


def test_a_broken_header_costs_the_boxes_and_is_told(tmp_path):
    save(tmp_path)
    (tmp_path / "train" / "a.dicom").write_bytes(b"no dicom")
    manifest = vindr.read(tmp_path)
    assert manifest.frame["boxes"].iloc[0] == ""
    broken = remark(manifest, "the DICOM's header cannot be read; its boxes were left out")
    assert (broken.ids, broken.level, broken.mend) == (("a",), "error", "fetch the file again")


def test_a_table_of_sizes_must_be_one(tmp_path):
    folder = save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv does not exist; layout_options.sizes"):
        vindr.read(folder, sizes="nowhere.csv")
    (folder / "sizes.csv").write_text("image_id,width,height\na,200,\n")
    with pytest.raises(ValueError, match=r"sizes.csv: row 2: .*expected pixels ≥ 1; mend the row"):
        vindr.read(folder, sizes="sizes.csv")
    (folder / "sizes.csv").write_text("image_id,w,h\na,200,100\n")
    with pytest.raises(ValueError, match="give the columns image_id, width, height"):
        vindr.read(folder, sizes="sizes.csv")


def test_boxes_of_three_readers_become_one_mean():
    drawn = [("R1", (0, 0, 10, 10)), ("R2", (1, 0, 11, 10)), ("R3", (2, 3, 12, 13)), ("R3", (50, 50, 60, 60))]
    assert merge(drawn, needed=2) == [(1.0, 1.0, 11.0, 11.0)]
    assert merge(drawn, needed=1) == [(1.0, 1.0, 11.0, 11.0), (50.0, 50.0, 60.0, 60.0)]
    assert merge(drawn, needed=4) == []


def test_two_boxes_of_one_reader_are_never_merged():
    same = [("R1", (0, 0, 10, 10)), ("R1", (0, 0, 10, 11))]
    assert merge(same, needed=1) == [(0, 0, 10, 10), (0, 0, 10, 11)]
    assert merge(same, needed=2) == []
    assert merge([("R1", (0, 0, 10, 10))] * 2, needed=1) == [(0, 0, 10, 10)]


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert overlap((0, 0, 4, 4), (0, 0, 4, 4)) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["R1", "R2", "R3"]),
            st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(10, 20), st.integers(10, 20)),
        ),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_does_not_matter(drawn, random):
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert merge(shuffled, needed=2) == merge(drawn, needed=2)
    assert len(merge(drawn, needed=1)) <= len(set(drawn))
