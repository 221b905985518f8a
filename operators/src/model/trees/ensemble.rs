//! A `TreeEnsembleClassifier` or `TreeEnsembleRegressor` of ONNX (ai.onnx.ml 1 and 3).

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;

use super::forest::{Aggregate, Described, Forest, MAX_FEATURES, Memory, Split, TooLarge, Weight};
use super::scores::{Transform, logistic};
use crate::model::graph::attribute;

/// The numbers of a node's tree and of the node.
type NodeName = (i64, i64);

/// An ensemble that was read and checked.
#[derive(Debug)]
pub(super) struct Ensemble {
    forest: Forest,
    finish: Finish,
    transform: Transform,
    /// Sums are divided by this: the number of trees for an average.
    divisor: f32,
    /// Added to the sums: one for each, or none.
    base: Vec<f32>,
}

/// How the sums of a row become its scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    /// The sums are transformed.
    Each,
    /// The sum is the value. ONNX Runtime transforms only what has several values, and so do we.
    Value,
    /// Two classes share the sum s: it is the second one's, and the first one's is what ONNX Runtime makes of it,
    /// 1 - s if no weight is negative (a probability), else -s (a margin).
    Pair { probability: bool },
}

impl Ensemble {
    /// Reads the ensemble for rows of `features` values.
    pub fn new(node: &NodeProto, features: usize) -> Result<Ensemble, String> {
        let attributes = Attributes(node);
        attributes.refuse_float64()?;
        let classifier = node.op_type == "TreeEnsembleClassifier";
        let prefix = if classifier { "class" } else { "target" };
        let weights = attributes.weights(prefix)?;
        let width = if classifier {
            attributes.ints("classlabels_int64s").len().max(attributes.strings("classlabels_strings").len())
        } else {
            let targets = attribute(node, "n_targets").map_or(1, |targets| targets.i);
            usize::try_from(targets).map_err(|_| format!("n_targets is {targets}"))?
        };
        // A target beyond the weights has no leaf: the bound keeps a wrong `n_targets` from taking all memory.
        if width < if classifier { 2 } else { 1 } || width > weights.len().max(2) {
            let what = if classifier { "classes" } else { "targets" };
            return Err(format!("it has {width} {what} and {} weights", weights.len()));
        }
        if let Some((_, weight)) = weights.iter().find(|(_, weight)| weight.target >= width) {
            return Err(format!("a weight is for {prefix} {}, there are {width} (from 0)", weight.target));
        }
        let pair = classifier && width == 2 && weights.iter().all(|(_, weight)| weight.target == 0);
        let finish = match (pair, width) {
            (true, _) => Finish::Pair { probability: weights.iter().all(|(_, weight)| weight.value >= 0.0) },
            (false, 1) => Finish::Value,
            (false, _) => Finish::Each,
        };
        let targets = if pair { 1 } else { width };
        let base = attributes.floats("base_values").to_vec();
        if !base.is_empty() && base.len() != targets && base.len() != 1 {
            return Err(format!("base_values has {} values for {targets} scores", base.len()));
        }
        if classifier && !pair && width == 2 && !base.is_empty() {
            return Err("base_values of two scored classes mean different things to different runtimes; \
                        score one class only"
                .to_owned());
        }
        let (aggregate, average) = match attributes.string("aggregate_function") {
            b"" | b"SUM" => (Aggregate::Sum, false),
            b"AVERAGE" => (Aggregate::Sum, true),
            b"MIN" => (Aggregate::Min, false),
            b"MAX" => (Aggregate::Max, false),
            other => return Err(format!("aggregate_function is {}", String::from_utf8_lossy(other))),
        };
        let forest = attributes.forest(Forest::new(features, targets, aggregate), &weights)?;
        let divisor = if average { forest.len() as f32 } else { 1.0 };
        let transform = Transform::parse(attributes.string("post_transform"))?;
        let base =
            if base.len() == 1 { vec![base.first().copied().unwrap_or_default(); targets] } else { base };
        Ok(Ensemble { forest, finish, transform, divisor, base })
    }

    /// The number of scores a row gets.
    pub fn width(&self) -> usize {
        if matches!(self.finish, Finish::Pair { .. }) { 2 } else { self.forest.targets() }
    }

    /// Scores rows; `memory` is used again from call to call.
    pub fn scores(&self, rows: &[f32], memory: &mut Memory) -> Vec<f32> {
        let sums = self.forest.sums(rows, memory);
        for row in sums.chunks_exact_mut(self.forest.targets()) {
            for (target, sum) in row.iter_mut().enumerate() {
                *sum = *sum / self.divisor + self.base.get(target).copied().unwrap_or_default();
            }
            if self.finish == Finish::Each {
                self.transform.apply(row);
            }
        }
        match self.finish {
            Finish::Pair { probability } => {
                sums.iter().flat_map(|sum| self.pair(*sum, probability)).collect()
            }
            Finish::Value | Finish::Each => sums.to_vec(),
        }
    }

    fn pair(&self, sum: f32, probability: bool) -> [f32; 2] {
        match self.transform {
            Transform::Logistic => [logistic(-sum), logistic(sum)],
            _ if probability => [1.0 - sum, sum],
            _ => [-sum, sum],
        }
    }
}

/// The attributes of the operator.
struct Attributes<'a>(&'a NodeProto);

impl<'a> Attributes<'a> {
    fn ints(&self, name: &str) -> &'a [i64] {
        attribute(self.0, name).map_or(&[], |attribute| &attribute.ints)
    }

    fn floats(&self, name: &str) -> &'a [f32] {
        attribute(self.0, name).map_or(&[], |attribute| &attribute.floats)
    }

    fn strings(&self, name: &str) -> &'a [Vec<u8>] {
        attribute(self.0, name).map_or(&[], |attribute| &attribute.strings)
    }

    fn string(&self, name: &str) -> &'a [u8] {
        attribute(self.0, name).map_or(&[], |attribute| &attribute.s)
    }

    /// Thresholds or weights in float64 are attributes that end in `_as_tensor`.
    fn refuse_float64(&self) -> Result<(), String> {
        match self.0.attribute.iter().find(|attribute| attribute.name.ends_with("_as_tensor")) {
            Some(attribute) => Err(format!(
                "`{}` holds float64 values; export the model with float32 inputs",
                attribute.name
            )),
            None => Ok(()),
        }
    }

    /// Checks that a list is as long as the others of its group.
    fn same_length(&self, name: &str, found: usize, expected: usize) -> Result<(), String> {
        if found == expected {
            Ok(())
        } else {
            Err(format!("`{name}` has {found} elements, expected are {expected}"))
        }
    }

    /// The weights of the leaves, with the tree and node they belong to.
    fn weights(&self, prefix: &str) -> Result<Vec<(NodeName, Weight)>, String> {
        let list = |part: &str| format!("{prefix}_{part}");
        let (trees, nodes) = (self.ints(&list("treeids")), self.ints(&list("nodeids")));
        let (ids, values) = (self.ints(&list("ids")), self.floats(&list("weights")));
        for (part, found) in [("treeids", trees.len()), ("nodeids", nodes.len()), ("ids", ids.len())] {
            self.same_length(&list(part), found, values.len())?;
        }
        trees
            .iter()
            .zip(nodes)
            .zip(ids.iter().zip(values))
            .map(|((tree, node), (id, value))| {
                let target = usize::try_from(*id).map_err(|_| format!("a weight is for {prefix} {id}"))?;
                if !value.is_finite() {
                    return Err(format!("node {node} of tree {tree} has the weight {value}"));
                }
                Ok(((*tree, *node), Weight { target, value: *value }))
            })
            .collect()
    }

    /// Builds the trees.
    fn forest(&self, mut forest: Forest, weights: &[(NodeName, Weight)]) -> Result<Forest, String> {
        let trees = self.ints("nodes_treeids");
        let (ids, modes) = (self.ints("nodes_nodeids"), self.strings("nodes_modes"));
        let (yes, no) = (self.ints("nodes_truenodeids"), self.ints("nodes_falsenodeids"));
        let (features, values) = (self.ints("nodes_featureids"), self.floats("nodes_values"));
        let missing = self.ints("nodes_missing_value_tracks_true");
        for (name, found) in [
            ("nodes_nodeids", ids.len()),
            ("nodes_modes", modes.len()),
            ("nodes_truenodeids", yes.len()),
            ("nodes_falsenodeids", no.len()),
            ("nodes_featureids", features.len()),
            ("nodes_values", values.len()),
        ] {
            self.same_length(name, found, trees.len())?;
        }
        if !missing.is_empty() {
            self.same_length("nodes_missing_value_tracks_true", missing.len(), trees.len())?;
        }
        if trees.is_empty() {
            return Err("it has no nodes".to_owned());
        }

        let mut places = HashMap::with_capacity(trees.len());
        for (index, name) in trees.iter().copied().zip(ids.iter().copied()).enumerate() {
            if places.insert(name, index).is_some() {
                return Err(format!("node {} of tree {} is there twice", name.1, name.0));
            }
        }
        let mut leaf_weights: HashMap<NodeName, Vec<Weight>> = HashMap::new();
        for (name, weight) in weights {
            if !places.contains_key(name) {
                return Err(format!(
                    "a weight is for node {} of tree {}, which is not there",
                    name.1, name.0
                ));
            }
            leaf_weights.entry(*name).or_default().push(*weight);
        }

        let mut nodes = Vec::with_capacity(trees.len());
        let rest = features.iter().zip(values).zip(missing.iter().chain(std::iter::repeat(&0)));
        for (((tree, id), mode), ((yes, no), ((feature, value), missing))) in
            trees.iter().zip(ids).zip(modes).zip(yes.iter().zip(no).zip(rest))
        {
            if mode == b"LEAF" {
                nodes.push(Described::Leaf(leaf_weights.remove(&(*tree, *id)).unwrap_or_default()));
                continue;
            }
            let at = || format!("node {id} of tree {tree}");
            let child = |side: &str, child: i64| {
                let missing = || format!("{} has the {side} child {child}, which is not there", at());
                places.get(&(*tree, child)).copied().ok_or_else(missing)
            };
            let (yes, no) = (child("true", *yes)?, child("false", *no)?);
            if value.is_nan() {
                return Err(format!("{} compares with NaN", at()));
            }
            let feature = usize::try_from(*feature).ok();
            let feature = feature.filter(|feature| *feature < forest.features().min(MAX_FEATURES));
            let feature = feature.ok_or_else(|| {
                format!(
                    "{} reads a value beyond the {} columns of its input in `model.toml`",
                    at(),
                    forest.features()
                )
            })?;
            let (split, swapped) = split(mode, feature, *value, *missing != 0)
                .ok_or_else(|| format!("{} has the unknown mode {}", at(), String::from_utf8_lossy(mode)))?;
            nodes.push(if swapped {
                Described::Split(split, no, yes)
            } else {
                Described::Split(split, yes, no)
            });
        }
        self.add_trees(&mut forest, trees, ids, nodes)?;
        Ok(forest)
    }

    /// Adds the trees in the order in which the file first names them.
    fn add_trees(
        &self,
        forest: &mut Forest,
        trees: &[i64],
        ids: &[i64],
        nodes: Vec<Described<usize>>,
    ) -> Result<(), String> {
        let mut parents = vec![false; nodes.len()];
        for node in &nodes {
            if let Described::Split(_, left, right) = node {
                for child in [*left, *right] {
                    if let Some(parent) = parents.get_mut(child)
                        && std::mem::replace(parent, true)
                    {
                        let (tree, id) = (trees.get(child).unwrap_or(&0), ids.get(child).unwrap_or(&0));
                        return Err(format!("node {id} of tree {tree} is the child of two nodes"));
                    }
                }
            }
        }
        // The one node of a tree without a parent is its root; a tree without such a node is a cycle.
        let mut order = Vec::new();
        let mut roots: HashMap<i64, (Option<usize>, usize)> = HashMap::new();
        for (index, (tree, parent)) in trees.iter().zip(&parents).enumerate() {
            let (root, size) = roots.entry(*tree).or_insert_with(|| {
                order.push(*tree);
                (None, 0)
            });
            *size += 1;
            if !parent && root.replace(index).is_some() {
                return Err(format!("tree {tree} has two roots"));
            }
        }
        let mut nodes: Vec<Option<Described<usize>>> = nodes.into_iter().map(Some).collect();
        for tree in order {
            let (root, size) = roots.get(&tree).copied().unwrap_or_default();
            let root = root.ok_or_else(|| format!("the nodes of tree {tree} form a cycle"))?;
            let mut reached = 0;
            forest.add_tree(root, |index| {
                reached += 1;
                let node = nodes.get_mut(index).and_then(Option::take);
                node.ok_or_else(|| format!("tree {tree} has a cycle"))
            })?;
            if reached != size {
                return Err(format!(
                    "tree {tree} has {size} nodes, but {reached} can be reached from its root"
                ));
            }
        }
        Ok(())
    }
}

impl From<TooLarge> for String {
    fn from(_: TooLarge) -> String {
        "it has more than 4,294,967,295 nodes".to_owned()
    }
}

/// A comparison as one of the two kinds that trees have, and whether its children change sides.
///
/// `x < v` is `x <= w` for the next number w below v, and the other three are the opposites of `<`, `<=` and `==`.
/// A missing value fails every comparison but `!=`, unless the node sends it to the true side.
fn split(mode: &[u8], feature: usize, value: f32, missing_true: bool) -> Option<(Split, bool)> {
    let (value, equal, swapped) = match mode {
        b"BRANCH_LEQ" => (value, false, false),
        b"BRANCH_LT" => (value.next_down(), false, false),
        b"BRANCH_EQ" => (value, true, false),
        b"BRANCH_GTE" => (value.next_down(), false, true),
        b"BRANCH_GT" => (value, false, true),
        b"BRANCH_NEQ" => (value, true, true),
        _ => return None,
    };
    let missing_true = missing_true || mode == b"BRANCH_NEQ";
    Some((Split { feature, value, equal, missing_left: missing_true != swapped }, swapped))
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::AttributeProto;

    use super::*;

    /// One split, `x0 <= 0.5`, with the leaves 1 and 2.
    fn stump() -> NodeProto {
        let ints = |name: &str, ints: &[i64]| AttributeProto {
            name: name.to_owned(),
            ints: ints.to_vec(),
            ..Default::default()
        };
        let floats = |name: &str, floats: &[f32]| AttributeProto {
            name: name.to_owned(),
            floats: floats.to_vec(),
            ..Default::default()
        };
        let modes = ["BRANCH_LEQ", "LEAF", "LEAF"].map(|mode| mode.as_bytes().to_vec()).to_vec();
        NodeProto {
            op_type: "TreeEnsembleRegressor".to_owned(),
            attribute: vec![
                ints("nodes_treeids", &[0, 0, 0]),
                ints("nodes_nodeids", &[0, 1, 2]),
                ints("nodes_truenodeids", &[1, 0, 0]),
                ints("nodes_falsenodeids", &[2, 0, 0]),
                ints("nodes_featureids", &[0, 0, 0]),
                floats("nodes_values", &[0.5, 0.0, 0.0]),
                AttributeProto { name: "nodes_modes".to_owned(), strings: modes, ..Default::default() },
                ints("target_treeids", &[0, 0]),
                ints("target_nodeids", &[1, 2]),
                ints("target_ids", &[0, 0]),
                floats("target_weights", &[1.0, 2.0]),
            ],
            ..Default::default()
        }
    }

    /// The error of a stump in which one attribute is changed.
    fn broken(name: &str, change: impl FnOnce(&mut AttributeProto)) -> String {
        let mut node = stump();
        change(node.attribute.iter_mut().find(|attribute| attribute.name == name).unwrap());
        Ensemble::new(&node, 3).unwrap_err()
    }

    #[test]
    fn a_stump_scores() {
        let scores =
            Ensemble::new(&stump(), 1).unwrap().scores(&[0.5, 0.6, f32::NAN], &mut Memory::default());
        assert_eq!(scores, [1.0, 2.0, 2.0]);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let (yes, no) = ("nodes_truenodeids", "nodes_falsenodeids");
        assert_eq!(
            broken(yes, |list| list.ints[0] = 0),
            "tree 0 has 3 nodes, but 1 can be reached from its root"
        );
        assert_eq!(broken(yes, |list| list.ints[0] = 2), "node 2 of tree 0 is the child of two nodes");
        assert_eq!(
            broken(no, |list| list.ints[0] = 7),
            "node 0 of tree 0 has the false child 7, which is not there"
        );
        assert_eq!(
            broken(no, |list| list.ints[0] = -1),
            "node 0 of tree 0 has the false child -1, which is not there"
        );
        assert_eq!(broken("nodes_nodeids", |list| list.ints[2] = 1), "node 1 of tree 0 is there twice");
        assert_eq!(broken("nodes_modes", |list| list.strings[0] = b"LEAF".to_vec()), "tree 0 has two roots");
        assert_eq!(
            broken("nodes_modes", |list| list.strings[0] = b"BRANCH".to_vec()),
            "node 0 of tree 0 has the unknown mode BRANCH"
        );
    }

    #[test]
    fn a_cycle_beside_a_root_is_refused() {
        let mut node = stump();
        let mut push = |name: &str, values: &[i64]| {
            node.attribute.iter_mut().find(|attribute| attribute.name == name).unwrap().ints.extend(values);
        };
        // 3 and 4 are each other's children; 5 and 6 are leaves of theirs.
        push("nodes_treeids", &[0, 0, 0, 0]);
        push("nodes_nodeids", &[3, 4, 5, 6]);
        push("nodes_truenodeids", &[4, 3, 0, 0]);
        push("nodes_falsenodeids", &[5, 6, 0, 0]);
        push("nodes_featureids", &[0, 0, 0, 0]);
        for attribute in &mut node.attribute {
            match attribute.name.as_str() {
                "nodes_values" => attribute.floats.extend([0.0; 4]),
                "nodes_modes" => {
                    let modes = ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF"];
                    attribute.strings.extend(modes.map(|mode| mode.as_bytes().to_vec()));
                }
                _ => {}
            }
        }
        let error = Ensemble::new(&node, 1).unwrap_err();
        assert_eq!(error, "tree 0 has 7 nodes, but 3 can be reached from its root");
    }

    #[test]
    fn lists_and_indices_that_do_not_fit_are_refused() {
        assert_eq!(
            broken("nodes_values", |list| list.floats.truncate(2)),
            "`nodes_values` has 2 elements, expected are 3"
        );
        assert_eq!(
            broken("target_ids", |list| list.ints.push(0)),
            "`target_ids` has 3 elements, expected are 2"
        );
        let beyond = "node 0 of tree 0 reads a value beyond the 3 columns of its input in `model.toml`";
        assert_eq!(broken("nodes_featureids", |list| list.ints[0] = 3), beyond);
        assert_eq!(broken("nodes_featureids", |list| list.ints[0] = -1), beyond);
        assert_eq!(
            broken("nodes_values", |list| list.floats[0] = f32::NAN),
            "node 0 of tree 0 compares with NaN"
        );
        assert_eq!(
            broken("target_ids", |list| list.ints[0] = 1),
            "a weight is for target 1, there are 1 (from 0)"
        );
        assert_eq!(
            broken("target_nodeids", |list| list.ints[0] = 9),
            "a weight is for node 9 of tree 0, which is not there"
        );
        assert_eq!(
            broken("target_weights", |list| list.floats[0] = f32::INFINITY),
            "node 1 of tree 0 has the weight inf"
        );
    }

    #[test]
    fn a_huge_number_of_targets_takes_no_memory() {
        let mut node = stump();
        node.attribute.push(AttributeProto {
            name: "n_targets".to_owned(),
            i: i64::MAX,
            ..Default::default()
        });
        let error = Ensemble::new(&node, 1).unwrap_err();
        assert_eq!(error, format!("it has {} targets and 2 weights", i64::MAX));
    }

    #[test]
    fn base_values_are_one_or_one_for_each() {
        let mut node = stump();
        node.attribute.push(AttributeProto {
            name: "base_values".to_owned(),
            floats: vec![10.0],
            ..Default::default()
        });
        assert_eq!(Ensemble::new(&node, 1).unwrap().scores(&[0.0], &mut Memory::default()), [11.0]);
        node.attribute.last_mut().unwrap().floats.push(1.0);
        assert_eq!(Ensemble::new(&node, 1).unwrap_err(), "base_values has 2 values for 1 scores");
    }
}
