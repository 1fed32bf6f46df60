"""The quick pass over a forest's trees: the forest's own answers to the last bit, or none at all."""

from __future__ import annotations

import modelzoo
import numpy as np
import pytest

from stfs.platforms.forest import quick

pytest.importorskip("sklearn")


def forests():
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )

    kinds = (RandomForestClassifier, ExtraTreesClassifier, RandomForestRegressor, ExtraTreesRegressor)
    return [kind(trees, random_state=0, max_depth=depth) for kind in kinds for trees in (1, 30) for depth in (1, None)]


@pytest.mark.parametrize("forest", forests(), ids=str)
def test_same_to_the_last_bit(forest):
    x, y = modelzoo.digits()
    forest.fit(x, y)
    name = "predict_proba" if hasattr(forest, "predict_proba") else "predict"
    answers = quick(forest, name)
    assert answers is not None
    for rows in (1, 2, 500):
        have, want = answers(x[:rows]), getattr(forest, name)(x[:rows])
        assert have.dtype == want.dtype
        np.testing.assert_array_equal(have, want)


def test_a_regressor_of_several_targets():
    from sklearn.ensemble import RandomForestRegressor

    x, _ = modelzoo.digits()
    forest = RandomForestRegressor(5, random_state=0).fit(x[:, :8], x[:, 8:11])
    answers = quick(forest, "predict")
    assert answers is not None
    np.testing.assert_array_equal(answers(x[:100, :8]), forest.predict(x[:100, :8]))


def test_an_answer_is_new_each_time():
    """Sums are made in the first tree's answer, which must not be the tree's own memory."""
    from sklearn.ensemble import RandomForestClassifier

    x, y = modelzoo.digits()
    forest = RandomForestClassifier(3, random_state=0).fit(x, y)
    answers = quick(forest, "predict_proba")
    assert answers is not None
    first = answers(x[:10])
    kept = first.copy()
    assert not np.shares_memory(first, answers(x[:10]))
    first[:] = -1
    np.testing.assert_array_equal(answers(x[:10]), kept)


def test_forests_that_are_called_as_they_are():
    from sklearn.ensemble import RandomForestClassifier

    x, y, _ = modelzoo.iris()
    threads = RandomForestClassifier(3, random_state=0, n_jobs=2).fit(x, y)
    targets = RandomForestClassifier(3, random_state=0).fit(x, np.stack([y, y > 0], axis=1))
    assert quick(threads, "predict_proba") is None
    assert quick(targets, "predict_proba") is None


def test_a_forest_with_other_trees_is_left_alone():
    """Members that bend what their trees say: the pass over the trees would answer wrongly."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    class Bent(DecisionTreeClassifier):
        def predict_proba(self, x, check_input=True):
            return super().predict_proba(x, check_input) ** 2

    x, y, _ = modelzoo.iris()
    forest = RandomForestClassifier(3, random_state=0, max_depth=2).fit(x, y)
    for member in forest.estimators_:
        member.__class__ = Bent
    assert quick(forest, "predict_proba") is None
