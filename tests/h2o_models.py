"""Models of every form that H2O writes, made by H2O itself, with its own server's predictions for the data.

:func:`make` runs this file as a program of its own, since it starts a server (on the loopback, stopped at the end) and
H2O's Python package warns and prints as it likes. It takes about half a minute.
"""

from __future__ import annotations

import csv
import os
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np

ROWS = 300
FEATURES = ("a", "b", "c", "d")
CATEGORICAL = {"c": ("blue", "green", "red"), "d": ("0", "1", "7")}
WITHIN_S = 280
HEAP = "600m"

MOJOS = (
    "glm_binomial",
    "glm_offset",
    "gbm_binomial",
    "gbm_numeric_labels",
    "gbm_multinomial",
    "gbm_regression",
    "gbm_one_hot",
    "gbm_enum_limited",
    "gbm_eigen",
    "deep_learning",
    "kmeans",
    "isolation_forest",
    "pca",
)
"""Each is ``<name>.zip`` with H2O's own predictions for ``data.csv`` in ``<name>.csv``."""

UNSERVED = ("autoencoder", "gam")
"""MOJOs that are no function from a row to a row of numbers."""


def make(folder: Path) -> Path:
    """Fills ``folder`` with ``data.csv``, the MOJOS, ``glm.bin``, ``Glm.java`` and the UNSERVED; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder


def columns(path: Path) -> dict[str, list[str]]:
    """A CSV file as lists of text by column; what is missing is empty."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [row[name] for row in rows] for name in rows[0]}


def arrays(table: dict[str, list[str]], names: tuple[str, ...] = FEATURES) -> dict[str, np.ndarray]:
    """Columns of ``data.csv`` as a model of it takes them."""
    return {
        name: np.array([value.encode() for value in table[name]], object)
        if name in CATEGORICAL
        else np.array([float(value) if value else np.nan for value in table[name]])
        for name in names
    }


def write_data(path: Path) -> None:
    generator = np.random.default_rng(11)
    lines = []
    for _ in range(ROWS):
        a, b = generator.normal(), generator.uniform(0, 10)
        c, d = generator.choice(CATEGORICAL["c"]), generator.choice(CATEGORICAL["d"])
        z = a + 1.5 * (c == "red") - (d == "7") + 0.1 * b + 0.3 * generator.normal()
        lines.append(
            [
                "" if generator.random() < 0.05 else f"{a:.4f}",
                f"{b:.4f}",
                "" if generator.random() < 0.05 else c,
                d,
                f"{generator.random():.3f}",
                "yes" if z > 0.6 else "no",
                int(z > 0.6),
                ("x", "y", "z")[int(np.clip(z + 1, 0, 2.99))],
                f"{z:.4f}",
            ]
        )
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*FEATURES, "offset", "answer", "zero_one", "kind", "amount"])
        writer.writerows(lines)


def train(folder: Path) -> None:
    import h2o
    from h2o import estimators as e

    write_data(folder / "data.csv")
    h2o.init(
        ip="127.0.0.1",
        port=30000 + 2 * secrets.randbelow(10000),
        bind_to_localhost=True,
        name=f"stfs-tests-{os.getpid()}",
        max_mem_size=HEAP,
        nthreads=1,
        strict_version_check=False,
    )
    try:
        enums = dict.fromkeys(("c", "d", "answer", "zero_one", "kind"), "enum")
        frame = h2o.import_file(str(folder / "data.csv"), col_types=enums)
        gbm = e.H2OGradientBoostingEstimator

        def trees(**options):
            return gbm(ntrees=8, max_depth=3, seed=1, **options)

        models = {
            "glm_binomial": (e.H2OGeneralizedLinearEstimator(family="binomial"), "answer"),
            "glm_offset": (e.H2OGeneralizedLinearEstimator(family="gaussian", offset_column="offset"), "amount"),
            "gbm_binomial": (trees(), "answer"),
            "gbm_numeric_labels": (trees(), "zero_one"),
            "gbm_multinomial": (trees(), "kind"),
            "gbm_regression": (trees(), "amount"),
            "gbm_one_hot": (trees(categorical_encoding="one_hot_explicit"), "answer"),
            "gbm_enum_limited": (trees(categorical_encoding="enum_limited"), "answer"),
            "gbm_eigen": (trees(categorical_encoding="eigen"), "answer"),
            "gam": (
                e.H2OGeneralizedAdditiveEstimator(family="gaussian", gam_columns=["b"], num_knots=[5], seed=1),
                "amount",
            ),
            "deep_learning": (e.H2ODeepLearningEstimator(hidden=[5], epochs=2, seed=1, reproducible=True), "kind"),
            "kmeans": (e.H2OKMeansEstimator(k=3, seed=1), None),
            "isolation_forest": (e.H2OIsolationForestEstimator(ntrees=8, seed=1), None),
            "pca": (e.H2OPrincipalComponentAnalysisEstimator(k=2, transform="standardize"), None),
            "autoencoder": (e.H2OAutoEncoderEstimator(hidden=[2], epochs=1, seed=1), None),
        }
        assert set(models) == {*MOJOS, *UNSERVED}
        for name, (model, response) in models.items():
            model.train(x=list(FEATURES), y=response, training_frame=frame)
            model.download_mojo(str(folder / f"{name}.zip"))
            if name in MOJOS:
                h2o.export_file(model.predict(frame), str(folder / f"{name}.csv"), force=True)
        glm = models["glm_binomial"][0]
        h2o.save_model(glm, str(folder), filename="glm.bin", force=True)
        source = Path(glm.download_pojo(str(folder), get_genmodel_jar=False))
        (folder / "Glm.java").write_bytes(source.read_bytes())
        source.unlink()
    finally:
        h2o.cluster().shutdown()


if __name__ == "__main__":
    train(Path(sys.argv[1]))
