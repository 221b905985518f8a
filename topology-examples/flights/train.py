"""Trains a model on the features that the topology itself produced.

    python3 train.py out/year/flight-features.jsonl data/year/arrivals.csv models/late/3

The first file is what `millstream dev` wrote for the sink `flight_features`, the second says how each flight ended, the
folder gets the model. Which columns the model reads is said here and nowhere else: it stands in the folder's model.toml,
which is where `predict` reads it. Trains on January to September, tests on October to December.

Needs Python 3.11 and `pip install -r requirements.txt`.
"""

import csv
import datetime as dt
import hashlib
import json
import pathlib
import sys
import zoneinfo

import lightgbm
import numpy as np
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.metrics import roc_auc_score

LATE_MINUTES = 15
UNSEEN_FROM = dt.datetime(2013, 10, 1, tzinfo=zoneinfo.ZoneInfo("America/New_York"))
GOLDEN_ROWS = 40
TOLERANCE = 1e-5

FEATURES = [
    # The departure.
    "dep_delay",
    "distance",
    "planned_minutes",
    "scheduled_hour",
    # The last hours.
    "origin_departures_1h",
    "origin_delay_1h",
    "origin_departures_3h",
    "origin_delay_3h",
    "origin_lost_1h",
    "carrier_departures_3h",
    "carrier_delay_3h",
    "carrier_lost_24h",
    "aircraft_legs",
    "aircraft_delay",
    "aircraft_last_delay",
    "dest_lost_3h",
    "dest_lost_24h",
    # The weather.
    "temperature",
    "dew_point",
    "humidity",
    "wind_speed",
    "wind_gust",
    "precipitation",
    "pressure",
    "visibility",
    # The aircraft.
    "aircraft_age",
    "seats",
    "engines",
    "maker",
]

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
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    features_file, arrivals_file, folder = map(pathlib.Path, sys.argv[1:])
    rows, late, unseen = read(features_file, arrivals_file)
    features = np.array(rows, dtype=np.float32)  # a null becomes NaN: missing
    seen = ~unseen
    print(f"{len(rows):,} flights, {len(FEATURES)} features; {late.mean():.1%} were {LATE_MINUTES} minutes late or more")

    trained = lightgbm.LGBMClassifier(**PARAMETERS).fit(features[seen], late[seen], feature_name=FEATURES)
    exported = convert_lightgbm(
        trained, initial_types=[("features", FloatTensorType([None, len(FEATURES)]))], zipmap=False, target_opset=15
    )
    exported.graph.name = "late"
    # They come in the order of a set, which changes from run to run; the file's checksum must not.
    exported.opset_import.sort(key=lambda opset: opset.domain)
    content = exported.SerializeToString()
    session = onnxruntime.InferenceSession(content)

    def score(inputs):
        return session.run(["probabilities"], {"features": inputs})[0]

    report(score(features[unseen])[:, 1], features[unseen], late[unseen])
    drift = np.abs(score(features[unseen])[:, 1] - trained.booster_.predict(features[unseen])).max()
    print(f"largest difference between LightGBM and its ONNX export: {drift:.1e}")
    if drift > TOLERANCE:
        sys.exit("the export differs from the model: nothing was written")

    golden = golden_rows(features, unseen)
    write(folder, content, [rows[i] for i in golden], score(features[golden]))


def read(features_path, arrivals_path):
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
            rows.append([record["value"][column] for column in FEATURES])
            late.append(int(delay >= LATE_MINUTES))
            unseen.append(record["timestamp"] >= UNSEEN_FROM.timestamp() * 1000)
    return rows, np.array(late), np.array(unseen)


def report(scores, features, late):
    """What the model is worth in the months it has not seen, beside the departure delay alone."""
    delay = features[:, FEATURES.index("dep_delay")]
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


def write(folder, content, rows, probabilities):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    names = ",\n".join(f'    "{column}"' for column in FEATURES)
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
    print(f"written: {folder} ({len(content) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
