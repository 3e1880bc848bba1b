"""How far apart harmful and harmless prompts lie inside a model (TARS, arXiv 2507.00971).

The final layer's state at the last token of each prompt is projected to a plane, where a linear support vector machine
parts the harmful from the harmless ones. The margin is the width of the strip between them, 2/‖w‖.

Deviations: (1) the paper says C = 1.0 and its project page C = 0.1: both are measured, and figures without a suffix are
of 1.0; (2) the plane is PCA's unless UMAP's is asked for, which alone stands beside the paper's figures; (3) PCA's is
scaled so that its points lie at distance 1 from their centre in the root mean square, since its unit is the model's
own; UMAP's is left as it is; (4) the intervals are ours: prompts of either kind are drawn anew, and the plane is kept.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from safereason.errors import InputError
from safereason.evals.metrics import CONFIDENCE, Figure, proportion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float64]
    Truths = NDArray[np.bool_]

Projection = Literal["pca", "umap"]
SUFFIXES = {1.0: "", 0.1: "_c0.1"}
"""C, the weight of points on the wrong side, and how the figures of it are called."""
FIGURES = tuple(f"{name}{suffix}" for suffix in SUFFIXES.values() for name in ("margin", "accuracy"))
RESAMPLES = 500
LEAST = 3
"""Fewest prompts of a kind."""
_FLAT = 1e-9
"""A ‖w‖ under this parts nothing."""


@dataclass(frozen=True)
class Boundary:
    """The line w·p + b = 0; harmful prompts lie where it is above 0."""

    w: tuple[float, float]
    b: float

    @property
    def margin(self) -> float | None:
        """2/‖w‖, in units of the plane; None where there is no line, since the points of both kinds coincide."""
        length = float((self.w[0] ** 2 + self.w[1] ** 2) ** 0.5)
        return 2 / length if length > _FLAT else None


def project(embeddings: "NDArray[np.float32]", projection: Projection, seed: int) -> "Points":
    """Points of a plane, [N, 2], for embeddings [N, H].

    Raises:
        InputError: UMAP is asked for and not installed.
    """
    import numpy as np

    if projection == "umap":
        return np.asarray(_umap(seed).fit_transform(embeddings), dtype=np.float64)
    from sklearn.decomposition import PCA

    points = PCA(n_components=2, svd_solver="full").fit_transform(embeddings.astype(np.float64))
    spread = float(np.sqrt((points**2).sum(axis=1).mean()))
    return np.asarray(points / spread if spread > 0 else points, dtype=np.float64)


def check_projection(projection: Projection) -> None:
    """Refuses UMAP where it is not installed, before anything is done.

    Raises:
        InputError: It is not.
    """
    from importlib.util import find_spec

    if projection == "umap" and find_spec("umap") is None:
        raise InputError("--projection umap: umap-learn is not installed; pip install 'safereason[umap]'")


def separate(points: "Points", harmful: "Truths", c: float, weights: "NDArray[np.int64] | None" = None) -> Boundary:
    """The line that a linear SVM (hinge loss, free intercept) draws between the kinds of points [N, 2].

    Args:
        points: Where the prompts lie.
        harmful: [N] which of them are harmful.
        c: Weight of points inside the strip or on the wrong side.
        weights: [N] how often each point counts; once by default.
    """
    from sklearn.svm import SVC

    machine = SVC(kernel="linear", C=c).fit(points, harmful, sample_weight=weights)
    (first, second), intercept = machine.coef_[0], machine.intercept_[0]
    return Boundary((float(first), float(second)), float(intercept))


def figures(points: "Points", harmful: "Truths", seed: int, resamples: int = RESAMPLES) -> list[Figure]:
    """`margin` with a bootstrap interval and `accuracy` with Wilson's, for each C.

    The accuracy is that on the points which the line was drawn for.
    """
    found = []
    for c, suffix in SUFFIXES.items():
        line = separate(points, harmful, c)
        right = ((points @ line.w + line.b > 0) == harmful).sum()
        low, high = _interval(points, harmful, c, seed, resamples)
        known = line.margin is not None
        n, unscored = (len(points), 0) if known else (0, len(points))
        found += [
            Figure(f"margin{suffix}", line.margin, n, low if known else None, high if known else None, unscored),
            proportion(f"accuracy{suffix}", int(right), len(points)),
        ]
    return found


def _interval(
    points: "Points", harmful: "Truths", c: float, seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """Percentiles of the margin over resamples that hold as many points of each kind."""
    import numpy as np

    draw = np.random.default_rng(seed)
    kinds = [np.flatnonzero(harmful), np.flatnonzero(~harmful)]
    margins = []
    for _ in range(resamples):
        drawn = np.concatenate([draw.choice(members, len(members)) for members in kinds])
        counts = np.bincount(drawn, minlength=len(points))
        kept = counts > 0
        margin = separate(points[kept], harmful[kept], c, counts[kept]).margin
        margins += [margin] if margin is not None else []
    if not margins:
        return None, None
    low, high = np.quantile(margins, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _umap(seed: int) -> Any:
    check_projection("umap")
    from umap import UMAP

    return UMAP(n_components=2, random_state=seed, n_jobs=1)
