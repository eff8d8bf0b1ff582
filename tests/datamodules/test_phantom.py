"""The phantom: the same study everywhere, a picture that shows what the labels say, masks and boxes where it is."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest

from datamodules.phantom.canvas import Tubes, chord, field, make_grid
from datamodules.phantom.pathology import fracture_point
from datamodules.phantom.render import boxes, masks, render
from datamodules.phantom.study import Finding, Study, study
from datamodules.phantom.thorax import make_shape
from datamodules.reports.labels import FINDINGS

SIDED = (
    "Pleural Effusion",
    "Pneumothorax",
    "Consolidation",
    "Lung Opacity",
    "Lung Lesion",
    "Fracture",
    "Pleural Other",
)


def upright(one: Study) -> Study:
    """The same study without shift, tilt or collimation, so that the patient's midline is the picture's."""
    straight = dataclasses.replace(
        one.acquisition,
        zoom=1.0,
        shift_x=0.0,
        shift_y=0.0,
        tilt=0.0,
        turn=0.0,
        inspiration=0.0,
        magnification=1.0,
        edges=(0.0, 0.0, 0.0, 0.0),
        grain=0.0,
        low=0.2,
        high=2.1,
        gamma=1.0,
        marker="",
    )
    return dataclasses.replace(one, acquisition=straight, view="PA")


def normal() -> Study:
    return next(upright(study(0, i)) for i in range(100) if not study(0, i).findings)


def with_finding(label: str, *, side: str | None = "left", size: float = 0.6, zone: str | None = None) -> Study:
    word = {"Support Devices": "pacemaker", "Lung Lesion": "mass", "Fracture": "rib fracture"}.get(label, label.lower())
    finding = Finding(label, word, side, zone, "moderate", size, True, along=0.6)  # type: ignore[arg-type]
    return dataclasses.replace(normal(), findings=(finding,))


def test_a_study_is_a_function_of_seed_and_index_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from datamodules.phantom.study import study\nfrom datamodules.phantom.render import render\n"
        "from datamodules.phantom.report import report\n"
        "s = study(5, 17)\n"
        "print(hashlib.sha256(repr(s).encode() + report(s).encode() + render(s, size=32).tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
    np.testing.assert_array_equal(render(study(5, 17), size=32), render(study(5, 17), size=32))
    assert study(5, 17) != study(6, 17)


def test_what_is_drawn_for_a_number_stays_the_same() -> None:
    # Pinned: a change here changes every figure measured on the phantom.
    seen = [
        (s.age, s.sex, s.view, [(f.word, f.side, round(f.size, 4)) for f in s.findings])
        for s in (study(0, 0), study(0, 5))
    ]
    assert seen == [
        (55, "M", "AP", [("pulmonary edema", "bilateral", 0.2881), ("central venous catheter", "right", 0.0043)]),
        (52, "F", "PA", [("consolidation", "left", 0.1739)]),
    ]


def test_order_of_drawing_does_not_matter() -> None:
    first = [render(study(1, i), size=32) for i in (3, 4)]
    again = [render(study(1, i), size=32) for i in (4, 3)][::-1]
    np.testing.assert_array_equal(np.stack(first), np.stack(again))


def test_two_consecutive_studies_are_one_patient() -> None:
    for k in range(20):
        a, b = study(2, 2 * k), study(2, 2 * k + 1)
        assert (a.patient_id, a.sex, a.anatomy) == (b.patient_id, b.sex, b.anatomy)
        assert 0 <= b.age - a.age <= 2
        assert a.acquisition != b.acquisition
        assert a.patient_id != study(2, 2 * k + 2).patient_id


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match=f"got seed {seed} and index {index}"):
        study(seed, index)


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="16 to 1024 pixels a side, but size is 8"):
        render(study(0, 0), size=8)


def test_prevalences() -> None:
    studies = [study(0, i) for i in range(1500)]
    sick = [[f.label for f in s.findings if f.label != "Support Devices"] for s in studies]
    assert 0.25 < np.mean([not labels for labels in sick]) < 0.40
    for label in FINDINGS[1:]:
        share = np.mean([s.has(label) for s in studies])
        assert 0.05 <= share <= 0.28, (label, share)
    edema = [s for s in studies if s.has("Edema")]
    hearts = np.mean([s.has("Cardiomegaly") for s in edema])
    assert hearts > 2 * np.mean([s.has("Cardiomegaly") for s in studies])
    portable = np.mean([s.view == "AP" for s in studies if s.has("Support Devices")])
    assert portable > 1.3 * np.mean([s.view == "AP" for s in studies if not s.has("Support Devices")])


def test_a_small_picture_is_the_area_average_of_a_big_one() -> None:
    for index in range(8):
        one = study(4, index)
        one = dataclasses.replace(one, acquisition=dataclasses.replace(one.acquisition, grain=0.0))
        small = render(one, size=64).astype(float)
        big = render(one, size=256).astype(float).reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert np.abs(small - big).mean() < 3.0
        assert np.corrcoef(small.ravel(), big.ravel())[0, 1] > 0.995


def test_grey_levels_are_those_of_a_chest_radiograph() -> None:
    one = normal()
    picture = render(one, size=128).astype(float)
    a = one.anatomy

    def patch(x: float, y: float) -> float:
        column, row = int(x * 128), int(y * 128)
        return float(picture[row - 3 : row + 4, column - 3 : column + 4].mean())

    middle_of_lung = a.apex + 0.6 * (a.dome - a.apex)
    right, left = patch(0.5 - 0.6 * a.width, middle_of_lung), patch(0.5 + 0.75 * a.width, middle_of_lung)
    heart, liver = patch(0.54, a.dome - 0.06), patch(0.5 - 0.5 * a.width, a.dome + 0.12)
    assert 20 < right < 150
    assert 20 < left < 150
    assert heart > right + 50
    assert liver > right + 70
    assert picture[-3:, :].mean() < 250


def test_the_heart_points_to_the_images_right_and_the_right_dome_is_higher() -> None:
    shape = make_shape(normal())
    assert shape.heart_left > 1.5 * shape.heart_right
    assert shape.domes[0] <= shape.domes[1]


@pytest.mark.parametrize("label", [f for f in FINDINGS if f not in ("No Finding", "Pneumonia")])
def test_each_finding_changes_the_picture_where_its_mask_is(label: str) -> None:
    zone = {"Pleural Other": "apex"}.get(label)
    one = with_finding(label, zone=zone, side="bilateral" if label == "Edema" else "left")
    before, after = (render(s, size=64).astype(float) for s in (normal(), one))
    mask = masks(one, size=64)[FINDINGS.index(label)]
    assert mask.any()
    change = np.abs(after - before)
    assert change[mask].mean() > 4
    assert change[mask].mean() > 2.5 * change[~mask].mean()


@pytest.mark.parametrize("label", SIDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_patients_left_is_the_images_right(label: str, side: str) -> None:
    one = with_finding(label, side=side, zone="apex" if label == "Pleural Other" else None)
    columns = np.nonzero(masks(one, size=64)[FINDINGS.index(label)])[1]
    assert (columns >= 32).all() if side == "left" else (columns < 32).all()
    assert all((box.x0 >= 0.49) == (side == "left") for box in boxes(one))


def test_brightness_goes_the_right_way() -> None:
    before = render(normal(), size=64).astype(float)
    for label, sign in (("Pleural Effusion", 1), ("Pneumothorax", -1), ("Consolidation", 1), ("Lung Lesion", 1)):
        one = with_finding(label, size=0.8)
        mask = masks(one, size=64)[FINDINGS.index(label)]
        assert sign * (render(one, size=64) - before)[mask].mean() > 5, label


@pytest.mark.parametrize("label", ["Pleural Effusion", "Pneumothorax", "Lung Lesion", "Cardiomegaly", "Consolidation"])
def test_a_larger_finding_has_a_larger_mask(label: str) -> None:
    side = None if label == "Cardiomegaly" else "right"
    areas = [masks(with_finding(label, side=side, size=s), size=96).sum() for s in (0.2, 0.5, 0.9)]
    assert areas[0] < areas[1] < areas[2]


def test_what_is_absent_has_no_mask_and_no_box() -> None:
    assert not masks(normal(), size=64).any()
    assert boxes(normal()) == []
    for index in range(60):
        one = study(7, index)
        shown = masks(one, size=64).any(axis=(1, 2))
        assert not shown[0]
        for label, any_pixel in zip(FINDINGS[1:], shown[1:], strict=True):
            assert any_pixel <= one.has(label)


def test_boxes_enclose_the_masks() -> None:
    one = with_finding("Pleural Effusion", side="bilateral", size=0.7)
    found = boxes(one)
    assert [box.finding for box in found] == ["Pleural Effusion"] * 2
    mask = masks(one, size=128)[FINDINGS.index("Pleural Effusion")]
    inside = np.zeros_like(mask)
    for box in found:
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
        inside[round(box.y0 * 128) : round(box.y1 * 128), round(box.x0 * 128) : round(box.x1 * 128)] = True
    assert mask[inside].sum() >= 0.95 * mask.sum()


def test_a_fracture_lies_on_a_rib_and_is_numbered_by_it() -> None:
    one = with_finding("Fracture", side="right")
    u, v, number = fracture_point(one, make_shape(one), one.findings[0])
    assert u < 0
    assert 1 <= number < 10
    lower = dataclasses.replace(one.findings[0], along=one.findings[0].along + 0.2)
    assert fracture_point(one, make_shape(one), lower)[2] > number
    assert fracture_point(one, make_shape(one), lower)[1] > v


def test_chord_of_a_sphere_and_the_mass_of_a_tube() -> None:
    grid = make_grid(normal(), size=256)
    ball = chord(grid, (0.0, 0.5), (0.25, 0.25))
    assert ball.max() == pytest.approx(1, abs=1e-3)
    # ∫ sqrt(1 - (r/R)²) over the disc = 2/3 π R²
    assert ball.mean() == pytest.approx(2 / 3 * np.pi * 0.25**2, rel=1e-3)
    for size in (32, 64, 256):
        tubes = Tubes(make_grid(normal(), size=size))
        tubes.add(np.array([(-0.2, 0.5), (0.2, 0.5)]), radius=0.05, density=1.0)
        # Length 0.4 × the area under half a circle's chord, π/2 R (density 1 at the middle)
        assert tubes.draw().mean() == pytest.approx(0.4 * np.pi / 2 * 0.05, rel=0.05)


def test_a_random_field_is_the_same_landscape_at_each_size() -> None:
    small, big = (field(np.random.default_rng(0), cells=6, size=size) for size in (32, 128))
    np.testing.assert_allclose(small, big.reshape(32, 4, 32, 4).mean(axis=(1, 3)), atol=0.03)
    many = np.stack([field(np.random.default_rng(i), cells=6, size=32) for i in range(200)])
    assert many.std() == pytest.approx(1, abs=0.05)


def test_a_study_is_drawn_quickly() -> None:
    render(study(0, 0), size=64)
    start = time.process_time()
    for index in range(30):
        render(study(0, index), size=64)
    assert (time.process_time() - start) / 30 < 0.040
