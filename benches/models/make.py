"""Makes the model of the benchmark `trees-100x6`: 100 LightGBM trees of depth 6 over 10 features.

    pip install -r ../../topology-examples/flights/requirements.txt
    python make.py
"""

import hashlib
import json
import pathlib

import lightgbm
import numpy
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

FOLDER = pathlib.Path(__file__).parent / "trees" / "1"
COLUMNS = ["amount"] + [f"f{n}" for n in range(1, 10)]

random = numpy.random.default_rng(7)
rows = numpy.column_stack([random.uniform(0, 1000, 20_000)] + [random.uniform(0, 100, 20_000) for _ in range(9)])
signal = rows[:, 0] / 500 + numpy.sin(rows[:, 1] / 9) + rows[:, 2] * rows[:, 3] / 3000 - rows[:, 4] / 60
labels = (signal + random.normal(0, 0.7, len(rows)) > 1.5).astype(int)
model = lightgbm.LGBMClassifier(
    n_estimators=100, max_depth=6, num_leaves=64, min_child_samples=5, random_state=7, n_jobs=2, verbose=-1, deterministic=True
)
model.fit(rows, labels)
onnx_model = convert_lightgbm(
    model, initial_types=[("features", FloatTensorType([None, len(COLUMNS)]))], zipmap=False, target_opset=15
)
data = onnx_model.SerializeToString()
FOLDER.mkdir(parents=True, exist_ok=True)
(FOLDER / "model.onnx").write_bytes(data)
sample = rows[:20].astype(numpy.float32)
session = onnxruntime.InferenceSession(data)
scores = session.run(["probabilities"], {"features": sample})[0]
(FOLDER / "golden.jsonl").write_text(
    "".join(
        json.dumps({"inputs": {"features": row.tolist()}, "outputs": {"probabilities": score.tolist()}}) + "\n"
        for row, score in zip(sample, scores)
    )
)
(FOLDER / "model.toml").write_text(
    f"""sha256    = "{hashlib.sha256(data).hexdigest()}"
inputs    = [{{ tensor = "features", type = "float32", columns = {json.dumps(COLUMNS)} }}]
outputs   = [{{ tensor = "probabilities", classes = ["0", "1"] }}]
tolerance = 1e-5
"""
)
print(model.booster_.trees_to_dataframe().query("left_child.isnull()").shape[0], "leaves,", len(data), "bytes")
