"""Trains the model of topology.toml on the features that the topology itself produced.

    python3 train.py out/year/flight-features.jsonl data/year/arrivals.csv

The first file is what `millstream dev` wrote for the sink `flight_features`, the second says how each flight ended.
Which columns the model reads, and which folder it is written to, stand in topology.toml (`steps.scored.inputs` and
`models.late`), so there is one list of features only. Trains on January to September, tests on October to December.

Needs Python 3.11 and `pip install -r requirements.txt`.
"""

import csv
import datetime as dt
import hashlib
import json
import pathlib
import sys
import tomllib
import zoneinfo

import lightgbm
import numpy as np
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import roc_auc_score

HERE = pathlib.Path(__file__).resolve().parent
LATE_MINUTES = 15
UNSEEN_FROM = dt.datetime(2013, 10, 1, tzinfo=zoneinfo.ZoneInfo("America/New_York"))
GOLDEN_ROWS = 40
TOLERANCE = 1e-5

PARAMETERS = {
    "n_estimators": 120,
    "num_leaves": 24,
    "max_depth": 6,
    "learning_rate": 0.12,
    "min_child_samples": 100,
    "reg_lambda": 1.0,
    "max_bin": 127,
    # The same input gives the same model, whatever the machine.
    "random_state": 2013,
    "deterministic": True,
    "force_row_wise": True,
    "n_jobs": 2,
    "verbose": -1,
}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(HERE / "topology.toml", "rb") as file:
        topology = tomllib.load(file)
    columns = topology["steps"]["scored"]["inputs"]["features"]
    model = topology["models"]["late"]
    folder = HERE / model["path"] / model["version"]

    rows, late, unseen = read(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), columns)
    features = np.array(rows, dtype=np.float32)  # a null becomes NaN: missing
    seen = ~unseen
    print(f"{len(rows):,} flights, {len(columns)} features; {late.mean():.1%} were {LATE_MINUTES} minutes late or more")

    trained = lightgbm.LGBMClassifier(**PARAMETERS).fit(features[seen], late[seen], feature_name=list(columns))
    exported = convert_lightgbm(
        trained, initial_types=[("features", FloatTensorType([None, len(columns)]))], zipmap=False, target_opset=15
    )
    exported.graph.name = "late"
    # They come in the order of a set, which changes from run to run; the file's checksum must not.
    exported.opset_import.sort(key=lambda opset: opset.domain)
    content = exported.SerializeToString()
    session = onnxruntime.InferenceSession(content)

    def score(inputs):
        return session.run(["probabilities"], {"features": inputs})[0]

    report(score(features[unseen])[:, 1], features[unseen], late[unseen], columns)
    drift = np.abs(score(features[unseen])[:, 1] - trained.booster_.predict(features[unseen])).max()
    print(f"largest difference between LightGBM and its ONNX export: {drift:.1e}")
    if drift > TOLERANCE:
        sys.exit("the export differs from the model: nothing was written")

    golden = golden_rows(features, unseen)
    write(folder, content, columns, [rows[i] for i in golden], score(features[golden]))


def read(features_path, arrivals_path, columns):
    """Feature rows, what became of the flights, and which of them are in the unseen months."""
    with open(arrivals_path, newline="", encoding="utf-8") as file:
        delays = {row["flight"]: int(row["arr_delay"]) for row in csv.DictReader(file)}
    rows, late, unseen = [], [], []
    with open(features_path, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            delay = delays.get(record["key"]["flight"])
            if delay is None:  # diverted
                continue
            rows.append([record["value"][column] for column in columns])
            late.append(int(delay >= LATE_MINUTES))
            unseen.append(record["timestamp"] >= UNSEEN_FROM.timestamp() * 1000)
    return rows, np.array(late), np.array(unseen)


def report(scores, features, late, columns):
    """What the model is worth in the months it has not seen, beside the departure delay alone."""
    delay = features[:, columns.index("dep_delay")]
    print(f"October to December, {len(late):,} flights:")
    print(f"  AUC of the departure delay alone  {roc_auc_score(late, delay):.4f}")
    print(f"  AUC of the model                  {roc_auc_score(late, scores):.4f}")
    called = scores >= 0.5
    print(f"  called late (score >= 0.5)        {called.sum():,}, of these were late {late[called].mean():.1%}")
    print(f"  were late                         {late.sum():,}, of these called late {called[late == 1].mean():.1%}")


def golden_rows(features, unseen):
    """Rows from the whole of the unseen months, half of them with missing features."""
    missing = np.isnan(features).any(axis=1)
    chosen = []
    for kind in (missing, ~missing):
        candidates = np.flatnonzero(unseen & kind)
        chosen.extend(candidates[np.linspace(0, len(candidates) - 1, GOLDEN_ROWS // 2).astype(int)])
    return sorted(chosen)


def write(folder, content, columns, rows, probabilities):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    names = ",\n".join(f'    "{column}"' for column in columns)
    (folder / "model.toml").write_text(
        f'sha256    = "{hashlib.sha256(content).hexdigest()}"\n'
        f'inputs    = [{{ tensor = "features", type = "float32", columns = [\n{names},\n] }}]\n'
        f'outputs   = [{{ tensor = "probabilities", classes = ["0", "1"] }}]\n'
        f"tolerance = {TOLERANCE}\n"
    )
    with open(folder / "golden.jsonl", "w", encoding="utf-8") as file:
        for row, outputs in zip(rows, probabilities):
            line = {"inputs": {"features": row}, "outputs": {"probabilities": [float(p) for p in outputs]}}
            file.write(json.dumps(line) + "\n")
    print(f"written: {folder.relative_to(HERE)} ({len(content) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
