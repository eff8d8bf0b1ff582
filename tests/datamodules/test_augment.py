"""Changes of training images: they depend on their key alone, and what is mirrored is mirrored in the report too."""

import torch

from datamodules.augment import augment, mirror


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
    images, texts = mirror(image, reports, keys=keys, share=0.3)
    turned = [bool(one[0, 0, 16:].max() > 0) for one in images]
    assert [text == "Small right effusion." for text in texts] == turned
    assert set(texts) == {"Small left effusion.", "Small right effusion."}
    assert 0.2 < sum(turned) / 400 < 0.4
    again = mirror(image, reports, keys=keys, share=0.3)
    assert torch.equal(again[0], images)
    assert again[1] == texts
    untouched, same = mirror(image, reports, keys=keys, share=0.0)
    assert torch.equal(untouched, image)
    assert same == reports


def test_a_mirrored_spanish_report_names_the_other_side():
    _, texts = mirror(bar_on_the_left(), ["derram pleural izquierd .", "Base dcha."], keys=["a", "b"], share=1.0)
    assert texts == ["derram pleural derech .", "Base izda."]
