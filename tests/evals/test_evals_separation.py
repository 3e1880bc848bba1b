"""The margin of a linear SVM in a plane, against cases whose margin is known and against scikit-learn's own."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.svm import SVC

from safereason.errors import InputError
from safereason.evals import SEPARATION, separation


def parted(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Points and which are harmful: the first half."""
    return np.array(points, dtype=np.float64), np.arange(len(points)) < len(points) // 2


@given(
    gap=st.floats(2.0, 50),
    angle=st.floats(0, 6.28),
    shift=st.floats(-20, 20),
    far=st.lists(st.floats(0, 30), max_size=3),
)
def test_a_gap_with_room_has_the_margin_that_is_measured_with_a_ruler(gap, angle, shift, far):
    # Two points of each kind stand on the strip's edges, so that C bounds nothing; more points lie further out.
    edge = [(gap / 2, -1.0), (gap / 2, 1.0), *((gap / 2 + d, d) for d in far)]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points, harmful = parted([*edge, *((-x, y) for x, y in edge)])
    line = separation.separate(points @ turn.T + shift, harmful, 1.0)
    assert line.margin == pytest.approx(gap, rel=2e-3)


@pytest.mark.parametrize(("c", "margin"), [(1.0, 2.0), (0.5, 2.0), (0.1, 10.0), (0.25, 4.0)])
def test_c_widens_the_strip_where_two_points_would_bear_more_than_it_allows(c: float, margin: float):
    # ‖w‖ = 2 · min(C, 1/2) for the points 1 and -1: each may bear C at most.
    points, harmful = parted([(1.0, 0.0), (-1.0, 0.0)])
    line = separation.separate(points, harmful, c)
    assert line.margin == pytest.approx(margin, rel=1e-4)
    assert line.w[0] > 0
    assert line.b == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("c", "suffix"), [(1.0, ""), (0.1, "_c0.1")])
def test_figures_are_scikit_learn_s_on_clouds_that_overlap(c: float, suffix: str):
    draw = np.random.default_rng(7)
    points = np.concatenate([draw.normal(0.8, 1, (60, 2)), draw.normal(-0.8, 1, (80, 2))])
    harmful = np.arange(140) < 60
    figures = {figure.name: figure for figure in separation.figures(points, harmful, seed=0, resamples=40)}
    machine = SVC(kernel="linear", C=c).fit(points, harmful)
    margin, accuracy = figures[f"margin{suffix}"], figures[f"accuracy{suffix}"]
    assert margin.value == pytest.approx(2 / np.linalg.norm(machine.coef_))
    assert accuracy.value == pytest.approx(machine.score(points, harmful))
    assert margin.low < margin.value < margin.high
    assert (margin.n, accuracy.n) == (140, 140)
    assert set(figures) == {info.name for info in SEPARATION.reports}


def test_the_interval_depends_on_the_seed_alone():
    draw = np.random.default_rng(1)
    points, harmful = draw.normal(size=(30, 2)), np.arange(30) < 12
    first, again, other = (separation.figures(points, harmful, seed, resamples=20) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_points_that_coincide_have_no_margin_and_are_unscored():
    points, harmful = np.zeros((6, 2)), np.arange(6) < 3
    margin = separation.figures(points, harmful, seed=0, resamples=3)[0]
    assert (margin.value, margin.low, margin.high, margin.n, margin.unscored) == (None, None, None, 0, 6)


@given(scale=st.floats(0.1, 1000), shift=st.floats(-10, 10))
def test_pca_s_plane_does_not_depend_on_the_unit_of_the_model(scale: float, shift: float):
    embeddings = np.random.default_rng(2).normal(size=(20, 8)) * np.arange(1, 9)
    plane = separation.project(embeddings, "pca", 0)
    assert (plane**2).sum(axis=1).mean() == pytest.approx(1)
    other = separation.project(embeddings * scale + shift, "pca", 0)
    assert np.abs(other) == pytest.approx(np.abs(plane), abs=1e-6)


def test_umap_that_is_not_installed_is_refused_with_the_command_that_gets_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'safereason\[umap\]'"):
        separation.project(np.zeros((4, 4), dtype=np.float32), "umap", 0)


def test_umap_s_plane_keeps_clouds_apart():
    pytest.importorskip("umap", reason="the extra `umap` is not installed")
    draw = np.random.default_rng(0)
    embeddings = np.concatenate([draw.normal(3, 1, (40, 16)), draw.normal(-3, 1, (40, 16))]).astype(np.float32)
    plane = separation.project(embeddings, "umap", 0)
    assert plane.shape == (80, 2)
    assert (plane == separation.project(embeddings, "umap", 0)).all()
    values = {figure.name: figure.value for figure in separation.figures(plane, np.arange(80) < 40, 0, resamples=5)}
    assert values["accuracy"] == 1.0
