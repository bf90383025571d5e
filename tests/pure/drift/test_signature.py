"""The names of a change: each cell of the table, and how often chance, jitter, damage and a trap get which name."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest
from scipy import stats

from sidecar.drift.composition import PairScores, _change, compare_pairs
from sidecar.drift.labelled import LEADING, RetrievalScores, compare_labelled
from sidecar.drift.signature import NAMES, WORSE, SignatureRule, at_least, name_changes

N = 62
"""Queries of a domain in the bundled set."""
TRIPLES = 110
"""Triples of a phenomenon in the bundled set, about."""
PHENOMENA = ("comparison", "modality", "negation", "quantity", "role_swap", "spatial", "temporal_order")

LEVEL = np.linspace(-0.1, 0.1, TRIPLES)
PARAPHRASE, NEAR_MISS = 0.7 + LEVEL, 0.9 + 0.5 * LEVEL


def pairs(*changes, before=(PARAPHRASE, NEAR_MISS), phenomena=PHENOMENA):
    """Compare two encoders' cosines; phenomenon i changes by changes[i] = (of paraphrases, of near-misses)."""
    changes = [*changes, *[(0.0, 0.0)] * (len(phenomena) - len(changes))]
    names = tuple(name for name in phenomena for _ in before[0])
    old = [np.concatenate([side] * len(phenomena)) for side in before]
    new = [np.concatenate([before[i] + change[i] for change in changes]) for i in (0, 1)]
    return compare_pairs(*(PairScores(names, *(tuple(one.tolist()) for one in sides)) for sides in (old, new)))


def labelled(differences, *, before=0.5, domains=None):
    """Compare two retrievers whose nDCG@10 differ by `differences`; rankings differ where the scores do."""
    n = len(differences)
    values = np.full(n, before)
    names = tuple(domains or ["law"] * n)
    scores = [
        RetrievalScores(
            queries=tuple(f"q{i}" for i in range(n)),
            domains=names,
            rankings=tuple((f"best at {one}",) for one in some.tolist()),
            values={LEADING: tuple(some.tolist())},
            top=(None,) * n,
            gap=(None,) * n,
        )
        for some in (values, values + np.asarray(differences))
    ]
    return compare_labelled(*scores)


def signature(retrieval, phenomena, rule=None):
    """Name the change of the one domain."""
    return name_changes(retrieval, phenomena, rule)[1]


PUSHED, DRAWN, STILL = (-0.02, -0.1), (0.02, 0.08), (0.0, 0.0)
SIGNS = np.resize([1.0, -1.0], N)
FELL, ROSE, SLIGHT, WIDE = np.full(N, -0.1), np.full(N, 0.1), 0.02 * SIGNS, 0.3 * SIGNS


class TestTable:
    """The table in the module's docstring, by constructed numbers."""

    @pytest.mark.parametrize(
        ("retrieval", "sensitivity", "name"),
        [
            (FELL, PUSHED, "precision_trap"),
            (FELL, STILL, "retrieval_loss"),
            (FELL, DRAWN, "retrieval_loss"),
            (SLIGHT, PUSHED, "changed_not_worse"),
            (SLIGHT, STILL, "changed_not_worse"),
            (SLIGHT, DRAWN, "changed_not_worse"),
            (WIDE, PUSHED, "changed_unclear"),
            (WIDE, STILL, "changed_unclear"),
            (WIDE, DRAWN, "changed_unclear"),
            (ROSE, PUSHED, "improved"),
            (ROSE, STILL, "improved"),
            (ROSE, DRAWN, "reverse_trade"),
            (np.zeros(N), STILL, "unchanged"),
        ],
    )
    def test_each_cell_has_its_name(self, retrieval, sensitivity, name):
        """Retrieval fell, is not worse, is unclear or rose; near-misses of one phenomenon were pushed or drawn."""
        found = signature(labelled(retrieval), pairs(sensitivity))
        assert found.name == name
        assert found.worse == (name in WORSE)
        assert (found.rose, found.fell) == (
            PHENOMENA[: int(sensitivity is PUSHED)],
            PHENOMENA[: int(sensitivity is DRAWN)],
        )

    def test_every_name_is_in_the_table(self):
        """There is no name that the table above does not reach."""
        marks = type(self).test_each_cell_has_its_name.pytestmark
        assert {name for _, _, name in marks[0].args[1]} == set(NAMES)

    def test_a_loss_beside_both_a_rise_and_a_fall_is_a_trap(self):
        """One phenomenon was traded for: that others got worse makes nothing better. The same rise is no reversal."""
        both = pairs(PUSHED, DRAWN)
        assert signature(labelled(FELL), both).name == "precision_trap"
        assert signature(labelled(ROSE), both).name == "improved"

    def test_without_a_composition_set_there_is_no_trap(self):
        """A fall is a loss, and nothing is said of sensitivity."""
        found = signature(labelled(FELL), ())
        assert (found.name, found.sensitivity, found.rose, found.sensitivity_only) == (
            "retrieval_loss", None, (), False,
        )  # fmt: skip
        assert signature(labelled(np.zeros(N)), ()).name == "unchanged"

    def test_one_moved_cosine_or_ranking_is_a_change(self):
        """`unchanged` is for nothing at all; what moved without harm is `changed_not_worse`."""
        old = PairScores(("negation",) * 2, (0.7, 0.8), (0.9, 0.9))
        new = PairScores(("negation",) * 2, (0.7, 0.8), (0.9, 0.9001))
        assert signature(labelled(np.zeros(N)), compare_pairs(old, new)).name == "changed_not_worse"
        one = np.zeros(N)
        one[0] = 0.05
        assert signature(labelled(one), pairs()).name == "changed_not_worse"

    def test_each_domain_has_its_own_name(self):
        """The trade is the encoder's, the damage a domain's: only the domain that fell is in the trap."""
        d = np.concatenate([FELL, SLIGHT])
        found = name_changes(labelled(d, domains=["law"] * N + ["pets"] * N), pairs(PUSHED))
        assert {one.domain: one.name for one in found} == {
            "all": "precision_trap", "law": "precision_trap", "pets": "changed_not_worse",
        }  # fmt: skip

    def test_more_domains_need_more_proof(self):
        """Ten falls that agree have p = 2^-10: enough for one domain and for the whole set, not for one of six."""
        d = np.zeros(N)
        d[:10] = -0.2
        assert signature(labelled(d), ()).name == "retrieval_loss"
        found = name_changes(labelled(np.tile(d, 6), domains=[f"d{i}" for i in range(6) for _ in range(N)]), ())
        assert [one.name for one in found] == ["retrieval_loss", *["changed_unclear"] * 6]

    def test_a_fall_must_be_large_enough_and_proved(self):
        """1.8 % is tolerated however sure; 4 % of which chance is a possible cause is unclear."""
        assert signature(labelled(np.full(N, -0.009)), pairs()).name == "changed_not_worse"
        assert signature(labelled(np.full(N, -0.011)), pairs()).name == "retrieval_loss"
        doubtful = WIDE - 0.02
        assert signature(labelled(doubtful), pairs()).name == "changed_unclear"
        assert signature(labelled(doubtful), pairs(), SignatureRule(p=0.5)).name == "retrieval_loss"


class TestSensitivity:
    """When sensitivity rose, fell, or only looks like it."""

    def test_both_texts_drawn_in_is_no_rise(self):
        """A damaged encoder draws all texts together, paraphrases most: near-misses came nearer, nothing was learnt.

        The numbers are those of MiniLM with its weights rounded to four bits, temporal order and all phenomena.
        """
        for para, near in ((0.037, 0.005), (0.026, 0.017)):
            change = pairs((para, near))[1]
            assert change.sensitivity > 0.008
            found = signature(labelled(FELL), pairs((para, near)), SignatureRule(min_sensitivity=0.005))
            assert (found.name, found.rose) == ("retrieval_loss", ())

    def test_a_common_factor_is_no_rise(self):
        """Noise in the vectors shrinks all cosines alike, which takes more from the nearer text (int8: about .97)."""
        for factor in (0.97, 0.85, 0.6):
            shrunk = (PARAPHRASE * (factor - 1.0), NEAR_MISS * (factor - 1.0))
            change = pairs(shrunk)[1]
            assert change.p_rise <= 1e-4
            found = signature(labelled(FELL), pairs(shrunk))
            assert (found.name, found.rose, found.fell) == ("retrieval_loss", (), ())
            back = pairs((-shrunk[0], -shrunk[1]), before=(PARAPHRASE * factor, NEAR_MISS * factor))
            assert signature(labelled(ROSE), back).name == "improved"

    def test_a_rise_without_discrimination_is_said(self):
        """Near-misses were pushed away, but the AUC was 0 and is 0: no threshold tells the texts apart."""
        found = signature(labelled(FELL), pairs((0.0, -0.05), before=(PARAPHRASE - 0.2, NEAR_MISS)))
        assert (found.name, found.rose, found.discrimination) == ("precision_trap", PHENOMENA[:1], ())
        assert found.sensitivity_only
        assert found.describe().endswith("; sensitivity rose, discrimination did not")
        found = signature(labelled(FELL), pairs((0.0, -0.15)))
        assert (found.discrimination, found.sensitivity_only) == (PHENOMENA[:1], False)

    def test_discrimination_alone_counts(self):
        """Texts that keep their means but scatter less are told apart better, or worse where near-misses are nearer."""
        shift = -0.9 * LEVEL
        better = pairs((shift, shift), before=(0.73 + LEVEL, 0.7 + LEVEL))
        assert better[1].sensitivity == pytest.approx(0.0, abs=1e-12)
        found = signature(labelled(FELL), better)
        assert (found.name, found.rose, found.discrimination) == ("precision_trap", PHENOMENA[:1], PHENOMENA[:1])
        assert not found.sensitivity_only
        worse = pairs((shift, shift), before=(0.7 + LEVEL, 0.73 + LEVEL))
        found = signature(labelled(ROSE), worse)
        assert (found.name, found.rose, found.fell) == ("reverse_trade", (), PHENOMENA[:1])

    @pytest.mark.parametrize("n", [1, 2, 8])
    def test_a_handful_of_triples_proves_nothing(self, n):
        """All n were wrong and are right now; signs that agree by chance have a probability of 2^-n, too much."""
        before, now = ((0.5,) * n, (0.9,) * n), ((0.9,) * n, (0.5,) * n)
        found = compare_pairs(*(PairScores(("negation",) * n, *sides) for sides in (before, now)))
        assert found[1].auc == 1.0
        assert signature(labelled(FELL), found).name == "retrieval_loss"

    def test_a_change_that_does_not_matter_does_not_count(self):
        """The smallest amounts are by themselves enough to refuse a change that is beyond doubt."""
        found = signature(labelled(FELL), pairs((0.0, -0.019)))
        assert (found.name, found.rose) == ("retrieval_loss", ())
        loose = SignatureRule(min_sensitivity=0.01)
        assert signature(labelled(FELL), pairs((0.0, -0.019)), loose).rose == PHENOMENA[:1]

    def test_a_change_that_may_be_chance_does_not_count(self):
        """In 35 phenomena AUCs differ by up to .06 and more between encoders that are equally good; none is named."""
        rng = np.random.default_rng(1)
        changes = [equally_noisy(rng) for _ in range(5)]
        assert max(abs(one.auc) for some in changes for one in some) > 0.06
        assert {found.rose + found.fell for found in (signature(labelled(FELL), some) for some in changes)} == {()}

    def test_the_phenomenon_beside_the_name_is_one_of_those_that_rose(self):
        """Of two that rose it is the one pushed further; one that looks larger but is not proved stays out."""
        few = PairScores(("tiny",) * 2, (0.7,) * 2, (0.9,) * 2), PairScores(("tiny",) * 2, (0.7,) * 2, (0.1,) * 2)
        found = signature(labelled(FELL), [*pairs((0.0, -0.05), (0.0, -0.1)), *compare_pairs(*few)])
        assert found.rose == PHENOMENA[:2]
        assert found.sensitivity.phenomenon == PHENOMENA[1]
        drawn = signature(labelled(FELL), pairs((0.0, 0.05), (0.0, 0.08)))
        assert (drawn.fell, drawn.sensitivity.phenomenon) == (PHENOMENA[:2], PHENOMENA[1])

    def test_one_phenomenon_among_many_is_enough(self):
        """The rise of one is named where the average over all triples hides it."""
        found = signature(labelled(FELL), pairs(PUSHED, *[(-0.03, 0.0)] * 6))
        assert found.rose == PHENOMENA[:1]
        assert found.name == "precision_trap"


class TestWords:
    """The sentence of a finding."""

    def test_both_numbers_stand_side_by_side(self):
        """Retrieval and cosines, before and now, with the phenomenon's name as words."""
        change = pairs(*[STILL] * 4, PUSHED)
        found = signature(labelled(FELL), change)
        auc = found.sensitivity.before.auc, found.sensitivity.now.auc
        assert found.describe() == (
            "law: nDCG@10 0.500 to 0.400 (-20.0%); role swap: near-miss cosine 0.900 to 0.800, paraphrase 0.700 to "
            f"0.680, AUC {auc[0]:.2f} to {auc[1]:.2f}"
        )

    def test_what_did_not_move_is_not_told(self):
        """Without a change of cosines there is no word on them, and no percentage of nothing."""
        assert signature(labelled(ROSE), pairs()).describe() == "law: nDCG@10 0.500 to 0.600 (+20.0%)"
        assert signature(labelled(ROSE, before=0.0), ()).describe() == "law: nDCG@10 0.000 to 0.100"


class TestNotWorse:
    """When it is shown that queries like these lost no more than a limit."""

    def test_it_is_the_lower_end_of_a_one_sided_interval(self):
        """By Student's t: mean less t times the standard error, here of 62 queries at +-.02 and +-.3."""
        for differences in (SLIGHT, WIDE):
            change = labelled(differences)[1].leading
            edge = -stats.t.isf(0.05, N - 1) * change.spread / sqrt(N)
            assert at_least(change, edge - 1e-9)
            assert not at_least(change, edge + 1e-9)

    def test_one_query_shows_nothing_and_none_moved_shows_all(self):
        """A single query has no spread, which is not the same as none; what did not move has not got worse."""
        assert not at_least(labelled([0.1])[1].leading, -0.01)
        assert at_least(labelled([0.0])[1].leading, -0.01)

    @pytest.mark.parametrize(("share", "most"), [(1.0, 0.05), (0.4, 0.07)])
    def test_a_domain_that_lost_the_limit_is_rarely_cleared(self, share, most):
        """Of 1,000 domains whose queries lose exactly the limit on average, 5 % are cleared if all move.

        With 25 of 62 moved the amounts are further from normal, and .06 is what a longer simulation gives. The count
        is at most the 99.9 % quantile of the binomial distribution.
        """
        rng = np.random.default_rng(5)
        moved = rng.random((1_000, N)) < share
        d = np.where(moved, rng.normal(-0.014 / share, 0.25, moved.shape), 0.0)
        some = labelled(WIDE)[1].leading
        cleared = sum(at_least(replace(some, effect=one.mean(), spread=one.std(ddof=1)), -0.014) for one in d)
        assert cleared <= stats.binom.ppf(0.999, 1_000, most)


def reranked(rng, mean=0.0, share=0.4, spread=0.25):
    """Draw the differences of N queries of which `share` move, on a grid of hundredths: their tests are exact."""
    inner = sqrt((spread**2 + mean**2) / share - (mean / share) ** 2)
    d = np.where(rng.random(N) < share, rng.normal(mean / share, inner, N), 0.0)
    return np.rint(100.0 * d) / 100.0


def equally_noisy(rng):
    """Compare two encoders that are equally far from the truth, in cosines that are on the grid, too.

    Each phenomenon by itself, since the change over all triples takes half of the time and decides nothing.
    """
    found = []
    for name in PHENOMENA:
        truth = np.array([rng.normal(0.7, 0.1, TRIPLES), rng.normal(0.85, 0.08, TRIPLES)])
        before, now = (np.rint(100.0 * (truth + rng.normal(0.0, 0.07, truth.shape))) / 100.0 for _ in range(2))
        found.append(_change(name, tuple(before), tuple(now)))
    return found


class TestRates:
    """How often which name is given, in sets of the bundled size: 62 queries a domain, 7 phenomena of 110 triples."""

    @pytest.mark.slow
    def test_chance_is_hardly_ever_called_a_trap(self):
        """Re-ranking as likely to help as to harm, and cosine noise without direction, in 500 sets.

        Each of a rise of sensitivity and a fall of retrieval has a probability of at most .005, both together of at
        most 2.5e-5. Every count is at most the 99.9 % quantile of its binomial distribution; for the first two without
        smallest amounts, so that the tests alone are counted.
        """
        rng = np.random.default_rng(2)
        bare = SignatureRule(min_effect=0.0, min_sensitivity=0.0, min_auc=0.0)
        rose, fell, worse, traps = 0, 0, 0, 0
        for _ in range(500):
            retrieval, phenomena = labelled(reranked(rng)), equally_noisy(rng)
            found = signature(retrieval, phenomena, bare)
            rose, fell, worse = rose + bool(found.rose), fell + bool(found.fell), worse + found.worse
            traps += signature(retrieval, phenomena).name == "precision_trap"
        most = stats.binom.ppf(0.999, 500, 0.005)
        assert max(rose, fell, worse) <= most
        assert traps <= stats.binom.ppf(0.999, 500, 2.5e-5)
        assert rose + fell + worse > 0

    @pytest.mark.slow
    def test_a_trap_is_named_as_often_as_its_loss_can_be_seen(self):
        """Near-misses fall by .1 +- .08, and one domain of 62 loses 10, 15 or 20 % of its .7, spread .25, 40 % moved.

        The rise is seen in every set. The loss is seen with the power of the sign-flip test at .005, for which
        Phi(f sqrt(n) - z sqrt(1 + f^2)) for f spreads is the approximation (`test_labelled` says why): .32, .70, .93.
        The counts are at least its .1 % quantile; over 3,000 sets they were .34, .83 and .99.
        """
        rng = np.random.default_rng(3)
        traded = []
        for _ in range(10):
            near = np.rint(rng.normal(-10.0, 8.0, TRIPLES)) / 100.0
            paraphrase = np.rint(rng.normal(0.0, 3.0, TRIPLES)) / 100.0
            traded.append(pairs((paraphrase, near)))
        for loss in (0.07, 0.105, 0.14):
            names = [signature(labelled(reranked(rng, -loss), before=0.7), traded[i % 10]).name for i in range(300)]
            f = loss / 0.25
            least = stats.norm.cdf(f * sqrt(N) - stats.norm.isf(0.005) * sqrt(1.0 + f**2))
            assert names.count("precision_trap") >= stats.binom.ppf(0.001, 300, least)
            assert "retrieval_loss" not in names

    @pytest.mark.slow
    def test_jitter_is_never_called_worse(self):
        """Rounded weights: cosines move by .003 without direction, 2 % of the queries swap two places, 500 sets.

        They are called no worse unless a query lost its first place (-.37): one of 62 is .9 % of the mean and, with the
        spread that it makes, more than 2 % are not excluded. A set has .1 of those on average, so exp(-.1) have none.
        """
        rng = np.random.default_rng(4)
        noise = rng.normal(0.0, 0.003, (7, 2, TRIPLES))
        phenomena = pairs(*noise)
        assert phenomena[0].moved > 700
        swaps = np.array([0.37, 0.13, 0.07, 0.04, 0.03, 0.02])
        names = []
        for _ in range(500):
            moved = rng.random(N) < 0.02
            d = np.where(moved, rng.choice([-1.0, 1.0], N) * rng.choice(swaps, N), 0.0)
            names.append(signature(labelled(d, before=0.7), phenomena).name)
        assert set(names) <= {"changed_not_worse", "changed_unclear"}
        assert names.count("changed_not_worse") >= stats.binom.ppf(0.001, 500, exp(-62 * 0.02 / 12))
