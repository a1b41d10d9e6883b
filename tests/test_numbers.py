"""Numeric columns: fitted on train only, as scikit-learn would, with every odd column named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from finetune.data.numbers import apply_scaling, fit_scaling
from finetune.errors import DataError
from finetune.recipe_data import Scaling


def table(**columns: list[float | None]) -> Dataset:
    size = len(next(iter(columns.values())))
    features = Features({"text": Value("string")} | {name: Value("float64") for name in columns})
    return Dataset.from_dict({"text": ["t"] * size} | columns, features=features)


NUMBERS = st.lists(st.none() | st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=40)


@settings(max_examples=40, deadline=None)
@given(train=NUMBERS, test=NUMBERS, scaling=st.sampled_from(["standardize", "min_max"]))
def test_scaling_equals_scikit_learns(train: list[float | None], test: list[float | None], scaling: Scaling) -> None:
    known = [x for x in train if x is not None]
    assume(len(set(known)) > 1)
    theirs = StandardScaler() if scaling == "standardize" else MinMaxScaler()
    theirs.fit(np.array(known).reshape(-1, 1))
    fitted = fit_scaling(table(x=train), {"x": scaling})
    for values in (train, test):
        ours = apply_scaling(table(x=values), fitted)["x"][:]
        column = np.array([np.nan if x is None else x for x in values]).reshape(-1, 1)
        expected = theirs.transform(column).ravel()
        assert [x is None for x in ours] == [x is None for x in values]
        np.testing.assert_allclose(np.array(ours, dtype=float), expected, rtol=1e-9, atol=1e-9)


def test_what_was_fitted_is_told() -> None:
    fitted = fit_scaling(table(a=[1.0, None, 3.0, float("nan")], b=[2.0] * 4), {"a": "standardize", "b": "min_max"})
    assert fitted["a"].to_json() == {
        "scaling": "standardize", "n": 2, "missing": 2, "mean": 2.0, "std": 1.0, "minimum": 1.0, "maximum": 3.0,
    }  # fmt: skip
    assert fitted["b"].to_json()["note"] == "constant in train (2): 0.0 throughout"
    assert json.loads(json.dumps(fitted["b"].to_json()))["n"] == 4


@pytest.mark.parametrize("scaling", ["standardize", "min_max"])
def test_a_constant_column_becomes_zero_and_a_missing_value_stays_null(scaling: Scaling) -> None:
    fitted = fit_scaling(table(x=[0.1, 0.1, 0.1]), {"x": scaling})
    assert fitted["x"].std == 0.0
    scaled = apply_scaling(table(x=[0.1, None, 7.0, float("nan")]), fitted)
    assert scaled["x"][:] == [0.0, None, 0.0, None]


def test_other_columns_and_an_empty_split_stay_as_they_are() -> None:
    rows = table(x=[1.0, 2.0], y=[5.0, 6.0])
    fitted = fit_scaling(rows, {"x": "min_max"})
    scaled = apply_scaling(rows, fitted)
    assert scaled.to_dict() == {"text": ["t", "t"], "x": [0.0, 1.0], "y": [5.0, 6.0]}
    assert scaled.features == rows.features
    assert len(apply_scaling(rows.select([]), fitted)) == 0
    assert apply_scaling(rows, {}) is rows


def test_tiny_and_huge_numbers_keep_their_digits() -> None:
    for unit in (1e-200, 1e200):
        fitted = fit_scaling(table(x=[unit, 2 * unit, 3 * unit]), {"x": "standardize"})
        np.testing.assert_allclose(fitted["x"].std / unit, np.std([1, 2, 3]))
    shifted = fit_scaling(table(x=[1e9 + 1, 1e9 + 2, 1e9 + 3]), {"x": "standardize"})
    np.testing.assert_allclose(shifted["x"].std, np.std([1, 2, 3]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, float("nan")], "data.numeric.x: no row of train has a number. Found: 2 rows"),
        ([1.0, float("inf")], "data.numeric.x: the numbers are too large to be scaled. Found: 1 to inf"),
        ([1e308, -1e308, 1e308], "too large to be scaled"),
    ],
)
def test_a_column_that_cannot_be_scaled_is_refused(values: list[float | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_scaling(table(x=values), {"x": "standardize"})
