"""Changes of training images: they depend on their key alone, and what is mirrored is mirrored in the report too."""

import pytest
import torch

from datamodules.augment import augment, check_views, mirror
from datamodules.reports.labels import VIEWS

PA, AP, LATERAL, UNKNOWN = (VIEWS.index(view) for view in ("PA", "AP", "LATERAL", "unknown"))
# Of the keys "0/3/r0" to "0/3/r11": those whose draw is under one half.
TURNED = [2, 8, 9, 10]


def bar_on_the_left():
    image = torch.full((2, 1, 32, 32), -1.0)
    image[:, :, :, 4:10] = 1.0
    return image


def test_augmentation_depends_on_the_key_alone_and_never_mirrors():
    image = bar_on_the_left()
    both, swapped = (augment(image, keys=keys, strength=1.0) for keys in (["a", "b"], ["b", "a"]))
    assert torch.equal(both, swapped.flip(0))
    assert not torch.equal(both[0], both[1])
    assert torch.allclose(augment(image, keys=["a", "b"], strength=0.0), image, atol=1e-5)
    many = augment(image[:1].expand(64, -1, -1, -1), keys=[str(i) for i in range(64)], strength=1.0)
    assert (many[:, :, :, :16].mean((1, 2, 3)) > many[:, :, :, 16:].mean((1, 2, 3))).all()
    assert many.abs().max() <= 1


def test_mirrored_images_have_mirrored_reports():
    image = bar_on_the_left()[:1].expand(400, -1, -1, -1)
    reports = ["Small left effusion."] * 400
    keys = [str(i) for i in range(400)]
    views = torch.tensor([PA, AP] * 200)
    images, texts = mirror(image, reports, views, keys=keys, share=0.3)
    turned = [bool(one[0, 0, 16:].max() > 0) for one in images]
    assert [text == "Small right effusion." for text in texts] == turned
    assert set(texts) == {"Small left effusion.", "Small right effusion."}
    assert 0.2 < sum(turned) / 400 < 0.4
    again = mirror(image, reports, views, keys=keys, share=0.3)
    assert torch.equal(again[0], images)
    assert again[1] == texts
    untouched, same = mirror(image, reports, views, keys=keys, share=0.0)
    assert torch.equal(untouched, image)
    assert same == reports


def test_which_images_are_mirrored_hangs_on_their_keys_alone():
    image = bar_on_the_left()[:1].expand(12, -1, -1, -1)
    keys = [f"0/3/r{n}" for n in range(12)]
    images, _ = mirror(image, [""] * 12, torch.full((12,), PA), keys=keys, share=0.5)
    turned = [n for n, one in enumerate(images) if torch.equal(one, image[0].flip(-1))]
    assert turned == TURNED
    # Neither what is not mirrored nor the order moves the others.
    views = torch.tensor([LATERAL if n % 2 else AP for n in range(12)])
    images, _ = mirror(image, [""] * 12, views.flip(0), keys=keys[::-1], share=0.5)
    assert [n for n, one in enumerate(images.flip(0)) if torch.equal(one, image[0].flip(-1))] == [
        n for n in TURNED if n % 2 == 0
    ]


def test_only_frontal_views_are_mirrored():
    image = bar_on_the_left()[:1].expand(4, -1, -1, -1)
    reports = ["Left effusion."] * 4
    images, texts = mirror(image, reports, torch.tensor([PA, LATERAL, UNKNOWN, AP]), keys=list("abcd"), share=1.0)
    assert texts == ["Right effusion.", "Left effusion.", "Left effusion.", "Right effusion."]
    assert torch.equal(images, torch.stack([image[0].flip(-1), image[1], image[2], image[3].flip(-1)]))


@pytest.mark.parametrize("text", ["Small L effusion, R clear.", "L small pleural effusion.", "R central venous line."])
def test_what_may_name_a_side_that_stays_is_not_mirrored(text):
    image = bar_on_the_left()
    images, texts = mirror(image, [text, "R lung clear."], torch.tensor([PA, PA]), keys=["a", "b"], share=1.0)
    assert texts == [text, "L lung clear."]
    assert torch.equal(images, torch.stack([image[0], image[1].flip(-1)]))


def test_a_data_set_without_frontal_views_is_refused():
    check_views(["LATERAL", "unknown", "AP"])
    with pytest.raises(
        ValueError, match=r"mirror is above 0, but no .* view PA or AP, .* \(found: 2 LATERAL, 1 unknown\); set it to 0"
    ):
        check_views(["LATERAL", "unknown", "LATERAL"])
    with pytest.raises(ValueError, match="found: none"):
        check_views([])


def test_a_mirrored_spanish_report_names_the_other_side():
    reports = ["derram pleural izquierd .", "Base dcha."]
    _, texts = mirror(bar_on_the_left(), reports, torch.tensor([PA, PA]), keys=["a", "b"], share=1.0)
    assert texts == ["derram pleural derech .", "Base izda."]
