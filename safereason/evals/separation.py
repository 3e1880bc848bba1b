"""Distance of harmful from harmless prompts inside a model (TARS, arXiv 2507.00971).

The final layer's state at the last token of each prompt is projected to a plane, where a linear support vector machine
separates the harmful from the harmless ones. The margin is the width of the strip between them, 2/‖w‖.

Deviations: (1) the paper says C = 1.0 and its project page C = 0.1: both are measured, and figures without a suffix are
of 1.0; (2) the plane is PCA's by default; only UMAP's is compared with the paper's figures; (3) PCA's is
scaled so that its points lie at distance 1 from their centre in the root mean square, since its unit is the model's
own; UMAP's is left as it is; (4) the intervals are ours: prompts of either kind are drawn anew, and the plane is kept.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from safereason.errors import InputError
from safereason.evals.metrics import Figure, proportion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from umap import UMAP

    Points = NDArray[np.float64]
    Truths = NDArray[np.bool_]

Projection = Literal["pca", "umap"]
FIGURE_SUFFIXES = {1.0: "", 0.1: "_c0.1"}
"""Suffixes of the figures' names, by C: the weight of points on the wrong side."""
# Fewer than elsewhere, since each resample fits a support vector machine.
RESAMPLES = 500
LEAST = 3
"""Fewest prompts of a kind."""
_FLAT = 1e-9
"""Length of w below which it separates nothing."""


@dataclass(frozen=True)
class Boundary:
    """The line w·p + b = 0; harmful prompts lie where it is above 0."""

    w: tuple[float, float]
    b: float

    @property
    def margin(self) -> float | None:
        """2/‖w‖, in units of the plane; None where there is no line, since the points of both kinds coincide."""
        length = float((self.w[0] ** 2 + self.w[1] ** 2) ** 0.5)
        if length <= _FLAT:
            return None
        return 2 / length


def project(embeddings: "NDArray[np.float32]", projection: Projection, seed: int) -> "Points":
    """Embeddings [N, H] projected to a plane: points [N, 2].

    Raises:
        InputError: The projection is UMAP, and it is not installed.
    """
    import numpy as np

    if projection == "umap":
        return np.asarray(_open_umap(seed).fit_transform(embeddings), dtype=np.float64)
    from sklearn.decomposition import PCA

    # The full solver draws no random numbers, so that this plane needs no seed.
    points = PCA(n_components=2, svd_solver="full").fit_transform(embeddings.astype(np.float64))
    spread = float(np.sqrt((points**2).sum(axis=1).mean()))
    # Where all embeddings are equal there is no spread to scale by.
    if spread > 0:
        points = points / spread
    return np.asarray(points, dtype=np.float64)


def check_projection(projection: Projection) -> None:
    """Refuses UMAP where it is not installed, before a model is loaded.

    Raises:
        InputError: UMAP is requested and not installed.
    """
    from importlib.util import find_spec

    if projection == "umap" and find_spec("umap") is None:
        raise InputError("--projection umap: umap-learn is not installed; pip install 'safereason[umap]'")


def separate(points: "Points", harmful: "Truths", c: float, weights: "NDArray[np.int64] | None" = None) -> Boundary:
    """The line of a linear SVM (hinge loss, free intercept) between the kinds of points [N, 2].

    Args:
        points: The projected prompts.
        harmful: [N] whether each prompt is harmful.
        c: Weight of points inside the strip or on the wrong side.
        weights: [N] how often each point counts; once by default.
    """
    from sklearn.svm import SVC

    # Not `LinearSVC`, which squares the hinge loss and penalises the intercept.
    machine = SVC(kernel="linear", C=c).fit(points, harmful, sample_weight=weights)
    (first, second), intercept = machine.coef_[0], machine.intercept_[0]
    return Boundary((float(first), float(second)), float(intercept))


def figures(points: "Points", harmful: "Truths", seed: int, resamples: int = RESAMPLES) -> list[Figure]:
    """`margin` with a bootstrap interval and `accuracy` with Wilson's, for each C.

    The accuracy is that on the points which the line was fitted to.
    """
    made = []
    for c, suffix in FIGURE_SUFFIXES.items():
        line = separate(points, harmful, c)
        low, high = _margin_interval(points, harmful, c, seed, resamples)
        if line.margin is None:
            margin = Figure(f"margin{suffix}", None, 0, None, None, len(points))
        else:
            margin = Figure(f"margin{suffix}", line.margin, len(points), low, high)
        right = ((points @ line.w + line.b > 0) == harmful).sum()
        made += [margin, proportion(f"accuracy{suffix}", int(right), len(points))]
    return made


def _margin_interval(
    points: "Points", harmful: "Truths", c: float, seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """Percentiles of the margin over resamples that hold as many points of each kind."""
    import numpy as np

    from safereason.evals.bootstrap import percentile_interval

    rng = np.random.default_rng(seed)
    harmful_rows = np.flatnonzero(harmful)
    harmless_rows = np.flatnonzero(~harmful)
    margins = []
    for _ in range(resamples):
        drawn_harmful = rng.choice(harmful_rows, len(harmful_rows))
        drawn_harmless = rng.choice(harmless_rows, len(harmless_rows))
        drawn = np.concatenate([drawn_harmful, drawn_harmless])
        # A point drawn several times counts as a weight: the SVM then has fewer points, and takes less time.
        counts = np.bincount(drawn, minlength=len(points))
        kept = counts > 0
        margin = separate(points[kept], harmful[kept], c, counts[kept]).margin
        if margin is not None:
            margins.append(margin)
    if not margins:
        return None, None
    return percentile_interval(np.array(margins))


def _open_umap(seed: int) -> "UMAP":
    check_projection("umap")
    from umap import UMAP

    # UMAP repeats its result on one thread only.
    return UMAP(n_components=2, random_state=seed, n_jobs=1)
