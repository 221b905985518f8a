"""Makes the models of this folder and what ONNX Runtime answers for 1,000 rows each (250 for the hand-made ones).

    python3 -m venv .venv && .venv/bin/pip install \
        numpy==2.4.6 scikit-learn==1.9.1 lightgbm==4.7.0 xgboost-cpu==3.2.0 \
        onnx==1.23.2 onnxruntime==1.31.1 skl2onnx==1.20.0 onnxmltools==1.16.0
    .venv/bin/python operators/tests/models/make.py

Every model becomes a model folder (`model.onnx`, `model.toml`, `golden.jsonl`) with one more file, `expected.f32`:
the outputs named in `model.toml`, one after the other, each as rows x width little-endian float32. The inputs
of these rows are in `inputs/NAME.f32`; which of them a model reads is said in `cases.json`, with the backend it needs.
Folders named `refused_` hold models that may not be loaded.
"""

import hashlib
import itertools
import json
import shutil
import warnings
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxruntime
import xgboost
from onnx import TensorProto, helper
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as MlToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

warnings.filterwarnings("ignore")
HERE = Path(__file__).resolve().parent
ROWS = 1000
GOLDEN = 4
OPSET = {"": 18, "ai.onnx.ml": 3}
CASES = {}


def inputs(name, data):
    """Writes the rows that models are compared on."""
    (HERE / "inputs").mkdir(exist_ok=True)
    data = np.ascontiguousarray(data, dtype="<f4")
    (HERE / "inputs" / f"{name}.f32").write_bytes(data.tobytes())
    return data


def number(value):
    """A number as JSON; a missing one is null."""
    return None if np.isnan(value) else value.item()


def folder(name, model, rows, backend, classes=None, alone=False):
    """Writes one model folder and the answers of ONNX Runtime to `rows`.

    `rows` names shared inputs, or is a table of tensors for a model that takes several; of these only the golden rows
    are kept. `classes` are the labels of its scores; an output that is a label is left out. Without a backend it is a model
    that has to be refused. `alone` asks ONNX Runtime for one row at a time.
    """
    path = HERE / name
    path.mkdir()
    # The bytes are the same on every run: some exporters put a random id in the name, or the imports in any order.
    model.graph.name = name
    imports = sorted(model.opset_import, key=lambda entry: entry.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)
    data = model.SerializeToString(deterministic=True)
    (path / "model.onnx").write_bytes(data)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    feeds = rows if isinstance(rows, dict) else {session.get_inputs()[0].name: INPUTS[rows]}
    count = len(next(iter(feeds.values()))) if backend else GOLDEN
    size = 1 if alone else count
    runs = [
        session.run(None, {tensor: values[start : start + size] for tensor, values in feeds.items()})
        for start in range(0, count, size)
    ]
    outputs = {}
    for output, *parts in zip(session.get_outputs(), *runs):
        value = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if output.type.startswith("seq("):  # ZipMap: one {label: score} per row
            labels = list(value[0])
            outputs[output.name] = np.array([[row[label] for label in labels] for row in value], dtype="<f4")
        elif output.type == "tensor(float)":
            outputs[output.name] = value.reshape(count, -1).astype("<f4")
    shared = backend and not isinstance(rows, dict)
    if shared:
        (path / "expected.f32").write_bytes(b"".join(value.tobytes() for value in outputs.values()))

    lines = [f'sha256    = "{hashlib.sha256(data).hexdigest()}"', "inputs    = ["]
    for tensor, values in feeds.items():
        prefix = "x" if len(feeds) == 1 else tensor
        columns = json.dumps([f"{prefix}{index}" for index in range(values.shape[1])])
        lines += [f'    {{ tensor = "{tensor}", type = "{values.dtype.name}", columns = {columns} }},']
    lines += ["]", "outputs   = ["]
    for output in outputs:
        labels = f", classes = {json.dumps(classes)}" if classes else ""
        lines += [f'    {{ tensor = "{output}"{labels} }},']
    lines += ["]", "tolerance = 1e-5"]
    (path / "model.toml").write_text("\n".join(lines) + "\n")
    with (path / "golden.jsonl").open("w") as golden:
        for row in range(GOLDEN):
            given = {tensor: [number(x) for x in values[row]] for tensor, values in feeds.items()}
            expected = {output: [number(x) for x in value[row]] for output, value in outputs.items()}
            line = {"inputs": given, "outputs": expected}
            golden.write(json.dumps(line) + "\n")
    if shared:
        widths = {output: value.shape[1] for output, value in outputs.items()}
        CASES[name] = {"inputs": rows, "backend": backend, "outputs": widths}


def spread(x, rng):
    """1,000 rows between and around the given ones, so that they fall on both sides of the splits."""
    a, b = x[rng.integers(0, len(x), ROWS)], x[rng.integers(0, len(x), ROWS)]
    mix = rng.random((ROWS, 1))
    return a * mix + b * (1 - mix) + rng.normal(0, 0.05, a.shape) * x.std(axis=0)


def missing(x, rng):
    return np.where(rng.random(x.shape) < 0.15, np.nan, x)


def sklearn_models():
    seed = {"random_state": 7}
    forest = {"n_estimators": 12, "max_depth": 5, **seed}
    boosting = {"n_estimators": 12, "max_depth": 3, **seed}
    net = {"hidden_layer_sizes": (16, 8), "max_iter": 300, **seed}
    models = [
        ("sklearn_forest_binary", RandomForestClassifier(**forest), "cancer", "trees"),
        ("sklearn_forest_multi", RandomForestClassifier(**forest), "wine", "trees"),
        ("sklearn_forest_regressor", RandomForestRegressor(**forest), "diabetes", "trees"),
        ("sklearn_boosting_binary", GradientBoostingClassifier(**boosting), "cancer", "trees"),
        ("sklearn_boosting_multi", GradientBoostingClassifier(**boosting), "wine", "trees"),
        ("sklearn_boosting_regressor", GradientBoostingRegressor(**boosting), "diabetes", "trees"),
        ("sklearn_tree_binary", DecisionTreeClassifier(max_depth=5, **seed), "cancer", "trees"),
        ("sklearn_tree_multi", DecisionTreeClassifier(max_depth=5, **seed), "wine", "trees"),
        ("sklearn_tree_regressor", DecisionTreeRegressor(max_depth=5, **seed), "diabetes", "trees"),
        ("sklearn_mlp_binary", MLPClassifier(**net), "cancer", "tract"),
        ("sklearn_mlp_multi", MLPClassifier(**net), "wine", "tract"),
        ("sklearn_mlp_regressor", MLPRegressor(**net), "diabetes", "tract"),
        ("sklearn_logistic_binary", LogisticRegression(max_iter=2000), "cancer", "tract"),
        ("sklearn_logistic_multi", LogisticRegression(max_iter=2000), "wine", "tract"),
        ("sklearn_linear_regressor", LinearRegression(), "diabetes", "tract"),
    ]
    for name, model, data, backend in models:
        x, y = TRAIN[data]
        model.fit(x, y)
        width = [("X", FloatTensorType([None, x.shape[1]]))]
        classifier = hasattr(model, "classes_")
        options = {id(model): {"zipmap": False}} if classifier else None
        graph = to_onnx(model, initial_types=width, options=options, target_opset=OPSET)
        classes = [str(label) for label in model.classes_] if classifier else None
        folder(name, graph, data, backend, classes)
        if name == "sklearn_forest_multi":  # the exporter's default: the probabilities as a list of maps
            graph = to_onnx(model, initial_types=width, target_opset=OPSET)
            folder("sklearn_forest_zipmap", graph, data, backend, classes)


def boosted_models():
    for data, kind in [("cancer", "binary"), ("wine", "multi"), ("diabetes", "regressor")]:
        x, y = TRAIN[data + "_missing"]
        classes = [str(label) for label in np.unique(y)] if kind != "regressor" else None
        width = [("X", MlToolsFloat([None, x.shape[1]]))]

        light = {"n_estimators": 12, "num_leaves": 12, "min_child_samples": 5, "random_state": 7, "n_jobs": 1}
        model = lightgbm.LGBMRegressor if kind == "regressor" else lightgbm.LGBMClassifier
        model = model(deterministic=True, verbose=-1, **light).fit(x, y)
        zipmap = {} if kind == "regressor" else {"zipmap": False}
        graph = convert_lightgbm(model, initial_types=width, target_opset=15, **zipmap)
        folder(f"lightgbm_{kind}", graph, data + "_missing", "trees", classes)

        model = xgboost.XGBRegressor if kind == "regressor" else xgboost.XGBClassifier
        model = model(n_estimators=12, max_depth=4, random_state=7, n_jobs=1).fit(x, y)
        graph = convert_xgboost(model, initial_types=width, target_opset=15)
        folder(f"xgboost_{kind}", graph, data + "_missing", "trees", classes)


def ensemble(op, output, rng, trees=3, targets=1, mode=None, weights=(-1.0, 1.0), ids=None, leaf=None, **attributes):
    """A hand-made tree node: each tree has four splits, and its nodes are numbered and listed unevenly.

    `ids` are the targets or classes that leaves score, `leaf` how many of them each leaf scores.
    """
    nodes, scores = [], []
    ids = list(range(targets)) if ids is None else ids
    for tree in range(trees):
        # 8 -> (1, 2); 1 -> (3, 4); 2 -> (5, 0); 0 -> (6, 7)
        for node, true, false in [(8, 1, 2), (2, 5, 0), (1, 3, 4), (0, 6, 7)]:
            nodes.append((tree, node, mode or rng.choice(MODES), true, false))
        for node in [3, 4, 5, 6, 7]:
            nodes.append((tree, node, "LEAF", 0, 0))
            some = len(ids) if leaf is None else leaf
            for target in sorted(rng.choice(ids, some, replace=False)):
                scores.append((tree, node, int(target), float(np.float32(rng.uniform(*weights)))))
    inner = [node[2] != "LEAF" for node in nodes]
    prefix = "class" if op == "TreeEnsembleClassifier" else "target"
    if prefix == "class":
        attributes["classlabels_int64s"] = list(range(targets))
    else:
        attributes["n_targets"] = targets
    scores.sort(key=lambda score: score[2])  # not in the order of the nodes
    return helper.make_node(
        op,
        ["X"],
        [f"{output}_label", output] if prefix == "class" else [output],
        name=output,
        domain="ai.onnx.ml",
        nodes_treeids=[node[0] for node in nodes],
        nodes_nodeids=[node[1] for node in nodes],
        nodes_modes=[node[2] for node in nodes],
        nodes_truenodeids=[node[3] for node in nodes],
        nodes_falsenodeids=[node[4] for node in nodes],
        nodes_featureids=[int(rng.integers(0, 4)) if split else 0 for split in inner],
        nodes_values=[float(rng.integers(-2, 3)) if split else 0.0 for split in inner],
        nodes_missing_value_tracks_true=[int(rng.integers(0, 2)) if split else 0 for split in inner],
        **{
            f"{prefix}_treeids": [score[0] for score in scores],
            f"{prefix}_nodeids": [score[1] for score in scores],
            f"{prefix}_ids": [score[2] for score in scores],
            f"{prefix}_weights": [score[3] for score in scores],
        },
        **attributes,
    )


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]


def handmade(name, version, nodes):
    """Many tree nodes over one input, one output each."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info(node.name, TensorProto.FLOAT, None) for node in nodes],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", version)]
    folder(name, helper.make_model(graph, opset_imports=imports, ir_version=8), "handmade", "trees")


def handmade_models():
    rng = np.random.default_rng(11)
    regress, classify = "TreeEnsembleRegressor", "TreeEnsembleClassifier"

    nodes = [ensemble(regress, f"mode_{mode.lower()}", rng, mode=mode) for mode in MODES]
    nodes += [ensemble(regress, "mode_mixed", rng, trees=20)]
    handmade("handmade_modes", 3, nodes)

    nodes = []
    for targets, base, function in itertools.product([1, 3], [False, True], ["SUM", "AVERAGE", "MIN", "MAX"]):
        output = f"{function.lower()}_{targets}" + ("_base" if base else "")
        extra = {"base_values": [0.5, -0.25, 0.125][:targets]} if base else {}
        # ONNX Runtime forgets the base value of a target that no tree scored, so all are scored where there is one.
        leaf = None if base else 1
        nodes.append(ensemble(regress, output, rng, 4, targets, leaf=leaf, aggregate_function=function, **extra))
    for targets, transform in itertools.product([1, 3], TRANSFORMS):
        nodes.append(ensemble(regress, f"{transform.lower()}_{targets}", rng, 4, targets, post_transform=transform))
    handmade("handmade_regressors", 3, nodes)

    nodes = []
    # Two classes of which only the first is scored are expanded, by other rules if no weight is negative.
    for sign, weights in [("positive", (0.0, 0.3)), ("mixed", (-1.0, 1.0))]:
        for kind, ids, base in [("one", [0], None), ("one_base", [0], [0.25]), ("second", [1], None), ("both", [0, 1], None)]:
            for transform in TRANSFORMS:
                extra = {} if base is None else {"base_values": base}
                output = f"two_{sign}_{kind}_{transform.lower()}"
                nodes.append(
                    ensemble(classify, output, rng, 3, 2, weights=weights, ids=ids, post_transform=transform, **extra)
                )
    for transform, base, leaf in itertools.product(TRANSFORMS, [False, True], [3, 1]):
        extra = {"base_values": [0.5, -0.25, 0.125]} if base else {}
        output = f"three_{leaf}_{transform.lower()}" + ("_base" if base else "")
        nodes.append(ensemble(classify, output, rng, 3, 3, leaf=leaf, post_transform=transform, **extra))
    handmade("handmade_classifiers", 1, nodes)


def odd_models():
    x, y = TRAIN["wine"]
    pipeline = make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=3, random_state=7)).fit(x, y)
    options = {id(pipeline): {"zipmap": False}}
    width = [("X", FloatTensorType([None, x.shape[1]]))]
    graph = to_onnx(pipeline, initial_types=width, options=options, target_opset=OPSET)
    folder("refused_scaler", graph, "wine", None, ["0", "1", "2"])

    def small(name, backend, *nodes):
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])],
            [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        folder(name, model, "handmade", backend, alone=True)

    small(
        "handmade_mixing",  # each row minus the mean of its batch: nothing but zeros for rows that are alone
        "tract",
        helper.make_node("IsNaN", ["X"], ["missing"]),
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Where", ["missing", "zero", "X"], ["filled"]),
        helper.make_node("ReduceMean", ["filled"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["filled", "mean"], ["Y"]),
    )
    # Every type that a column can have, and an output that is not always a number.
    types = {"f": np.float32, "d": np.float64, "l": np.int64, "i": np.int32, "b": np.bool_}
    feeds = {name: np.array([[1], [2], [0], [1]]).astype(kind) for name, kind in types.items()}
    graph = helper.make_graph(
        [
            *[helper.make_node("Cast", [name], [f"{name}_f"], to=TensorProto.FLOAT) for name in types],
            helper.make_node("Sum", [f"{name}_f" for name in types], ["sum"]),
            helper.make_node("Sub", ["f", "d_f"], ["difference"]),
            helper.make_node("Add", ["difference", "b_f"], ["sure"]),
            helper.make_node("Log", ["sure"], ["log"]),
        ],
        "handmade_types",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [None, 1])
            for name, kind in types.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ["sum", "log"]],
    )
    feeds["b"][:] = True
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder("handmade_types", model, feeds, "tract")

    small(
        "refused_random",
        None,
        helper.make_node("RandomUniformLike", ["X"], ["Y"], dtype=TensorProto.FLOAT, seed=7.0),
    )


if __name__ == "__main__":
    for old in HERE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
    random = np.random.default_rng(3)
    TRAIN, INPUTS = {}, {}
    for name, load, width in [("cancer", load_breast_cancer, 8), ("wine", load_wine, 13), ("diabetes", load_diabetes, 10)]:
        x, y = load(return_X_y=True)
        x = x[:, :width]
        x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
        if name == "diabetes":
            y = (y - y.mean()) / y.std()
        TRAIN[name] = (x, y)
        TRAIN[name + "_missing"] = (missing(x, random).astype(np.float32), y)
        rows = spread(x, random)
        INPUTS[name] = inputs(name, rows)
        INPUTS[name + "_missing"] = inputs(name + "_missing", missing(rows, random))
    # Small whole numbers, so that comparisons meet equal values.
    INPUTS["handmade"] = inputs("handmade", missing(random.integers(-3, 4, (250, 4)), random))
    sklearn_models()
    boosted_models()
    handmade_models()
    odd_models()
    (HERE / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
