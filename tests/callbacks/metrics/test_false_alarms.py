"""Thresholds: hand-computed ranks, false alarms of new images over all detectors, refusals."""

import pytest
import torch
from scipy import stats

from callbacks.metrics.false_alarms import check_count, most_by_chance, raised, scores, set_alarm, without_twins


def draw(n: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Detectors that depend on one another, one of them with heavy tails."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n, generator=generator)
    return {"a": x[0].exp(), "b": (x[0] + x[1]).exp(), "c": (x[2] ** 3).exp()}


@pytest.mark.parametrize(("n", "rank"), [(120, 1), (299, 1), (473, 2), (2000, 13)])
def test_the_rank_is_that_of_a_tolerance_limit(n: int, rank: int):
    """The least N of ranks 1 and 2 stand in tables of 95 % / 99 % tolerance limits: 299 and 473."""
    alarm = set_alarm(draw(n, seed=0), rate=0.01)
    assert alarm.rank == rank
    assert alarm.expected == pytest.approx(rank / (n + 1))
    assert alarm.confidence == pytest.approx(1 - stats.binom.cdf(rank - 1, n, 0.01), abs=1e-9)
    assert (alarm.confidence >= 0.95) == (n >= 299)
    if n >= 299:
        assert stats.binom.cdf(rank, n, 0.01) > 0.05  # a larger one would be too many


def test_new_images_of_the_same_kind_seldom_raise_it():
    rates = []
    for seed in range(40):
        flags = raised(set_alarm(draw(600, seed=seed), rate=0.01), draw(2000, seed=1000 + seed))
        rates.append(float(torch.stack(list(flags.values())).any(0).float().mean()))
    assert sum(rate > 0.01 for rate in rates) <= 5  # of 40, 2 are expected
    assert 0.001 < sum(rates) / 40 < 0.006  # 2 / 601


def test_thresholds_say_what_scores_say():
    held_out, images = draw(300, seed=0), draw(300, seed=1)
    images["b"][7] = 0.0  # the logarithm of 0 is floored
    del held_out["c"], images["c"]  # it has ties at the floor
    alarm = set_alarm(held_out, rate=0.05)
    any_below = torch.stack(list(raised(alarm, images).values())).any(0)
    assert torch.equal(any_below, scores(alarm, images) > alarm.level)
    assert any_below[7]
    assert int(torch.stack(list(raised(alarm, held_out).values())).any(0).sum()) == alarm.rank - 1


def test_too_few_held_out_images_are_refused_with_the_number_needed():
    check_count(99, rate=0.01)
    with pytest.raises(ValueError, match=r"98 held-out images cannot set an alarm with 0\.01 .* give at least 99"):
        set_alarm(draw(98, seed=0), rate=0.01)
    with pytest.raises(ValueError, match="give a rate above 0"):
        check_count(10_000, rate=0.0)


def test_a_held_out_twin_of_a_training_image_does_not_disarm_the_gate() -> None:
    generator = torch.Generator().manual_seed(0)
    held = {name: torch.rand(400, generator=generator) + 1 for name in ("pixel", "judge")}
    clean = set_alarm(held, rate=0.01)
    held["pixel"][7] = 0.0  # one picture under two patients' ids
    held["judge"][9] = 1e-4
    kept, twins = without_twins(held, whole=list(held))
    assert twins.nonzero()[:, 0].tolist() == [7, 9]
    assert all(len(one) == 398 for one in kept.values())
    alarm = set_alarm(kept, rate=0.01)
    for name in held:
        assert alarm.thresholds[name] == pytest.approx(clean.thresholds[name], rel=0.1)
        assert raised(alarm, {key: torch.tensor([0.0 if key == name else 1.5]) for key in held})[name].item()


@pytest.mark.parametrize(("n", "rate"), [(37, 0.01), (64, 0.01), (64, 0.3), (5000, 0.01), (50, 0.9), (1, 0.97)])
def test_more_than_chance_is_above_the_binomial_quantile(n: int, rate: float) -> None:
    assert most_by_chance(n, rate=rate) == stats.binom.ppf(0.95, n, rate)
    assert most_by_chance(n, rate=0.0) == 0


@pytest.mark.parametrize("least", [0.0, 1e-7])  # the latter is what rounding may leave
@pytest.mark.parametrize("shared", [20, 60, 100])
def test_splits_that_share_their_pictures_are_refused(shared: int, least: float) -> None:
    distances = 1 + torch.rand(100, generator=torch.Generator().manual_seed(0))
    distances[:shared] = least  # from 51 on the median is as well
    with pytest.raises(ValueError, match="held-out images equal a training image, more than 10%: the splits share"):
        without_twins({"pixel": distances}, whole=("pixel",))


def test_equal_parts_of_different_images_stay_in_the_alarm() -> None:
    """A fifth of the held-out images share a part with a training image, as new real ones will: few may be flagged."""

    def draw_images(n: int, *, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = {name: torch.rand(n, generator=generator) + 1 for name in ("pixel", "patch")}
        images["patch"][::5] *= 1e-3
        return images

    held, new = draw_images(600, seed=0), draw_images(2000, seed=1)
    kept, twins = without_twins(held, whole=["pixel"])
    assert not twins.any()
    assert all(len(one) == 600 for one in kept.values())
    flags = raised(set_alarm(kept, rate=0.01), new)
    assert torch.stack(list(flags.values())).any(0).float().mean() <= 0.01
