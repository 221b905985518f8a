//! Trees in memory, and the walk from their roots to the leaves.
//!
//! A tree is laid out level by level in one array of 12-byte nodes, the two children of a split side by side. So a
//! step down is the same handful of instructions for every node, without a branch that could be mispredicted:
//!
//! - a missing value (NaN) goes right, since it is not less or equal; splits that send it left read a second copy of
//!   the row, in which -∞ stands for NaN;
//! - a leaf is its own left child and reads a value after the row that is always -∞, so walks stay where they arrived.
//!
//! Several walks run in step to hide each other's memory latency: one tree over several rows, or, for the rows that
//! are left over, several trees over one row.

/// How many walks run in step.
const LANES: usize = 8;
/// How many rows pass one tree after the other while they stay in the cache.
const BLOCK: usize = 8 * LANES;

/// The largest index of a node, and of the ranges that leaves refer to: bit patterns of small positive numbers.
const MAX_INDEX: usize = 1 << 30;
/// One more than the largest index of a feature.
pub(super) const MAX_FEATURES: usize = 1 << 28;

/// Marks a feature index: the split compares for equality.
const EQUAL: u32 = 1 << 31;
/// Marks such a split further: missing values go left.
const EQUAL_MISSING_LEFT: u32 = 1 << 30;

/// A split or a leaf.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// What the feature is compared with. Of a leaf: its payload (see `Leaves`).
    value: f32,
    /// Where the feature is in the row and its copy.
    feature: u32,
    /// The left child, the right one follows it. Of a leaf: itself.
    left: u32,
}

/// A split as the trees are built from it: rows with `feature <= value` (or `==`) go left. `value` is not NaN.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub feature: usize,
    pub value: f32,
    pub equal: bool,
    pub missing_left: bool,
}

/// What a leaf adds: to one score, or to some of several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weight {
    pub target: usize,
    pub value: f32,
}

/// How the trees' values make one score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Sum,
    Min,
    Max,
}

/// A tree in the array of nodes.
#[derive(Debug, Clone, Copy)]
struct Tree {
    root: u32,
    /// The depths of its nearest and its farthest leaf.
    shallowest: u32,
    deepest: u32,
}

/// What the leaves' payloads mean.
#[derive(Debug)]
enum Leaves {
    /// The value itself: the forest has one score, and it is a sum.
    Value,
    /// The index into `ranges` of the weights it gives.
    Weights { ranges: Vec<(u32, u32)>, weights: Vec<Weight> },
}

/// Trees that score rows together.
#[derive(Debug)]
pub(super) struct Forest {
    nodes: Vec<Node>,
    trees: Vec<Tree>,
    leaves: Leaves,
    features: usize,
    targets: usize,
    aggregate: Aggregate,
    any_equal: bool,
}

impl Forest {
    /// A forest without trees over rows of `features` values, with `targets` sums per row.
    pub fn new(features: usize, targets: usize, aggregate: Aggregate) -> Forest {
        let leaves = if targets == 1 && aggregate == Aggregate::Sum {
            Leaves::Value
        } else {
            Leaves::Weights { ranges: Vec::new(), weights: Vec::new() }
        };
        Forest {
            nodes: Vec::new(),
            trees: Vec::new(),
            leaves,
            features,
            targets,
            aggregate,
            any_equal: false,
        }
    }

    /// The number of trees.
    pub fn len(&self) -> usize {
        self.trees.len()
    }

    /// The number of values a row has.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The number of sums per row.
    pub fn targets(&self) -> usize {
        self.targets
    }

    /// Adds a tree, described from `root` down. `node` says what a node of the description is: a split and its left
    /// and right child, or the weights of a leaf. Every node may be asked for once: this is what keeps cycles out.
    pub fn add_tree<N, E>(
        &mut self,
        root: N,
        mut node: impl FnMut(N) -> Result<Described<N>, E>,
    ) -> Result<(), E>
    where
        E: From<TooLarge>,
    {
        let start = self.nodes.len();
        let mut tree = Tree { root: place(start)?, shallowest: u32::MAX, deepest: 0 };
        let constant = self.constant();
        let placeholder = Node { value: 0.0, feature: constant, left: 0 };
        self.nodes.push(placeholder);
        // Nodes that have a place but are not described yet, level by level.
        let mut level = vec![(start, root)];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (index, name) in level {
                let made = match node(name)? {
                    Described::Split(split, left, right) => {
                        let first = self.nodes.len();
                        self.nodes.extend([placeholder, placeholder]);
                        next.extend([(first, left), (first + 1, right)]);
                        self.any_equal |= split.equal;
                        Node { value: split.value, feature: self.feature(split)?, left: place(first)? }
                    }
                    Described::Leaf(weights) => {
                        tree.shallowest = tree.shallowest.min(depth);
                        tree.deepest = depth;
                        Node { value: self.leaf(&weights)?, feature: constant, left: place(index)? }
                    }
                };
                if let Some(slot) = self.nodes.get_mut(index) {
                    *slot = made;
                }
            }
            level = next;
            depth += 1;
        }
        self.trees.push(tree);
        Ok(())
    }

    /// Where the -∞ is that leaves read: behind the row and its copy.
    fn constant(&self) -> u32 {
        2 * self.features as u32
    }

    /// What a split reads.
    fn feature(&self, split: Split) -> Result<u32, TooLarge> {
        let feature = u32::try_from(split.feature).map_err(|_| TooLarge)?;
        Ok(match (split.equal, split.missing_left) {
            (false, false) => feature,
            (false, true) => feature + self.features as u32,
            // -∞ is not equal, so these look at the missing value itself.
            (true, false) => feature | EQUAL,
            (true, true) => feature | EQUAL | EQUAL_MISSING_LEFT,
        })
    }

    /// The payload of a leaf.
    fn leaf(&mut self, given: &[Weight]) -> Result<f32, TooLarge> {
        match &mut self.leaves {
            Leaves::Value => Ok(given.iter().map(|weight| weight.value).sum()),
            Leaves::Weights { ranges, weights } => {
                let payload = place(ranges.len())?;
                ranges.push((place(weights.len())?, place(weights.len() + given.len())?));
                weights.extend_from_slice(given);
                Ok(f32::from_bits(payload))
            }
        }
    }

    /// The sums (or minima, maxima) of each row, row by row; 0 where no tree scored a target.
    pub fn sums<'a>(&self, rows: &[f32], memory: &'a mut Memory) -> &'a mut [f32] {
        let neutral = match self.aggregate {
            Aggregate::Sum => 0.0,
            Aggregate::Min => f32::INFINITY,
            Aggregate::Max => f32::NEG_INFINITY,
        };
        let Memory { sums, lanes, single } = memory;
        sums.clear();
        sums.resize(rows.len() / self.features * self.targets, neutral);
        for (rows, sums) in rows.chunks(BLOCK * self.features).zip(sums.chunks_mut(BLOCK * self.targets)) {
            // Forests that compare for equality are rare, the others need not pay for them.
            if self.any_equal {
                self.block::<true>(rows, sums, lanes, single);
            } else {
                self.block::<false>(rows, sums, lanes, single);
            }
        }
        if self.aggregate != Aggregate::Sum {
            sums.iter_mut().filter(|sum| **sum == neutral).for_each(|sum| *sum = 0.0);
        }
        sums
    }

    fn block<const EQ: bool>(
        &self,
        rows: &[f32],
        sums: &mut [f32],
        lanes: &mut Vec<[f32; LANES]>,
        single: &mut Vec<[f32; 1]>,
    ) {
        let (width, targets) = (self.features, self.targets);
        let together = rows.len() / (LANES * width) * LANES;
        let (rows, left_over) = rows.split_at(together * width);
        let (sums, left_over_sums) = sums.split_at_mut(together * targets);
        if together > 0 {
            lanes.clear();
            rows.chunks_exact(LANES * width).for_each(|group| interleave(group, width, lanes));
            for tree in &self.trees {
                let groups = lanes.chunks_exact(2 * width + 1).zip(sums.chunks_exact_mut(LANES * targets));
                for (rows, sums) in groups {
                    let leaves = self.walk::<EQ, LANES, LANES>(
                        [tree.root; LANES],
                        rows,
                        tree.shallowest,
                        tree.deepest,
                    );
                    for (leaf, sums) in leaves.into_iter().zip(sums.chunks_exact_mut(targets)) {
                        self.add(leaf, sums);
                    }
                }
            }
        }
        for (row, sums) in left_over.chunks_exact(width).zip(left_over_sums.chunks_exact_mut(targets)) {
            single.clear();
            interleave(row, width, single);
            let mut groups = self.trees.chunks_exact(LANES);
            for group in &mut groups {
                let roots = std::array::from_fn(|lane| group.get(lane).map_or(0, |tree| tree.root));
                let shallowest = group.iter().map(|tree| tree.shallowest).min().unwrap_or_default();
                let deepest = group.iter().map(|tree| tree.deepest).max().unwrap_or_default();
                for leaf in self.walk::<EQ, LANES, 1>(roots, single, shallowest, deepest) {
                    self.add(leaf, sums);
                }
            }
            for tree in groups.remainder() {
                for leaf in self.walk::<EQ, 1, 1>([tree.root], single, tree.shallowest, tree.deepest) {
                    self.add(leaf, sums);
                }
            }
        }
    }

    /// Goes from `N` roots to leaves in step; none arrives before `shallowest` steps or after `deepest`.
    /// Each walk has its own row of `M` interleaved ones, or all have the only one.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "children and features were checked when the trees were built"
    )]
    fn walk<const EQ: bool, const N: usize, const M: usize>(
        &self,
        mut at: [u32; N],
        rows: &[[f32; M]],
        shallowest: u32,
        deepest: u32,
    ) -> [u32; N] {
        let nodes = self.nodes.as_slice();
        let step = |at: u32, lane: usize| {
            let node = nodes[at as usize];
            let hit = if EQ && node.feature & EQUAL != 0 {
                let x = rows[(node.feature & !(EQUAL | EQUAL_MISSING_LEFT)) as usize][lane % M];
                x == node.value || (x.is_nan() && node.feature & EQUAL_MISSING_LEFT != 0)
            } else {
                rows[node.feature as usize][lane % M] <= node.value
            };
            node.left + u32::from(!hit)
        };
        for _ in 0..shallowest {
            for (lane, at) in at.iter_mut().enumerate() {
                *at = step(*at, lane);
            }
        }
        for _ in shallowest..deepest {
            let mut moved = 0;
            for (lane, at) in at.iter_mut().enumerate() {
                let next = step(*at, lane);
                moved |= next ^ *at;
                *at = next;
            }
            if moved == 0 {
                break;
            }
        }
        at
    }

    /// Adds what a leaf gives to the sums of a row.
    #[inline(always)]
    #[expect(
        clippy::indexing_slicing,
        reason = "walks end at leaves, and their weights were checked when built"
    )]
    fn add(&self, leaf: u32, sums: &mut [f32]) {
        let payload = self.nodes[leaf as usize].value;
        match &self.leaves {
            Leaves::Value => sums[0] += payload,
            Leaves::Weights { ranges, weights } => {
                let (start, end) = ranges[payload.to_bits() as usize];
                for weight in &weights[start as usize..end as usize] {
                    let sum = &mut sums[weight.target];
                    match self.aggregate {
                        Aggregate::Sum => *sum += weight.value,
                        Aggregate::Min => *sum = sum.min(weight.value),
                        Aggregate::Max => *sum = sum.max(weight.value),
                    }
                }
            }
        }
    }
}

/// What a forest works with, kept from run to run.
#[derive(Debug, Default)]
pub(super) struct Memory {
    sums: Vec<f32>,
    lanes: Vec<[f32; LANES]>,
    single: Vec<[f32; 1]>,
}

/// Lays `M` rows side by side: first their values, then those with -∞ for what is missing, then a -∞.
#[expect(clippy::indexing_slicing, reason = "the caller gives exactly M rows")]
fn interleave<const M: usize>(rows: &[f32], width: usize, into: &mut Vec<[f32; M]>) {
    let rows: [&[f32]; M] = std::array::from_fn(|row| &rows[row * width..(row + 1) * width]);
    into.reserve(2 * width + 1);
    into.extend((0..width).map(|feature| rows.map(|row| row[feature])));
    let missing_left = |value: f32| if value.is_nan() { f32::NEG_INFINITY } else { value };
    into.extend((0..width).map(|feature| rows.map(|row| missing_left(row[feature]))));
    into.push([f32::NEG_INFINITY; M]);
}

/// An index as nodes hold it.
fn place(index: usize) -> Result<u32, TooLarge> {
    if index < MAX_INDEX { Ok(index as u32) } else { Err(TooLarge) }
}

/// A node as `Forest::add_tree` learns of it.
pub(super) enum Described<N> {
    /// A split with its left and right child.
    Split(Split, N, N),
    /// A leaf with what it gives.
    Leaf(Vec<Weight>),
}

/// There are more nodes than an index can count.
#[derive(Debug)]
pub(super) struct TooLarge;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tree as one would draw it.
    #[derive(Debug, Clone)]
    enum Drawn {
        Leaf(f32),
        Split(usize, f32, bool, bool, Box<(Drawn, Drawn)>),
    }

    const FEATURES: usize = 3;

    fn drawn() -> impl Strategy<Value = Drawn> {
        let leaf = (-8..8).prop_map(|value| Drawn::Leaf(value as f32));
        leaf.prop_recursive(7, 60, 2, |inner| {
            (0..FEATURES, -3..4, any::<bool>(), any::<bool>(), inner.clone(), inner).prop_map(
                |(feature, value, equal, missing_left, left, right)| {
                    Drawn::Split(feature, value as f32, equal, missing_left, Box::new((left, right)))
                },
            )
        })
    }

    fn row() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(
            prop_oneof![4 => (-4..5).prop_map(|x| x as f32), 1 => Just(f32::NAN)],
            FEATURES,
        )
    }

    fn score(tree: &Drawn, row: &[f32]) -> f32 {
        match tree {
            Drawn::Leaf(value) => *value,
            Drawn::Split(feature, value, equal, missing_left, children) => {
                let x = row[*feature];
                let left = if x.is_nan() {
                    *missing_left
                } else if *equal {
                    x == *value
                } else {
                    x <= *value
                };
                score(if left { &children.0 } else { &children.1 }, row)
            }
        }
    }

    fn forest(trees: &[Drawn], targets: usize, aggregate: Aggregate) -> Forest {
        let mut forest = Forest::new(FEATURES, targets, aggregate);
        for (index, tree) in trees.iter().enumerate() {
            let added: Result<(), TooLarge> = forest.add_tree(tree, |tree| {
                Ok(match tree {
                    Drawn::Leaf(value) => {
                        Described::Leaf(vec![Weight { target: index % targets, value: *value }])
                    }
                    Drawn::Split(feature, value, equal, missing_left, children) => {
                        let (feature, value) = (*feature, *value);
                        let split = Split { feature, value, equal: *equal, missing_left: *missing_left };
                        Described::Split(split, &children.0, &children.1)
                    }
                })
            });
            added.unwrap();
        }
        forest
    }

    proptest! {
        /// Whatever the number of trees and rows, each row gets what walking down each tree gives.
        #[test]
        fn sums_are_those_of_single_walks(
            trees in proptest::collection::vec(drawn(), 1..20),
            rows in proptest::collection::vec(row(), 0..80),
            targets in 1..4_usize,
            kind in 0..3,
        ) {
            let aggregate = [Aggregate::Sum, Aggregate::Min, Aggregate::Max][kind as usize];
            let forest = forest(&trees, targets, aggregate);
            let mut memory = Memory::default();
            let found = forest.sums(&rows.concat(), &mut memory).to_vec();
            let mut expected = Vec::new();
            for row in &rows {
                for target in 0..targets {
                    let scores = trees.iter().skip(target).step_by(targets).map(|tree| score(tree, row));
                    let all = match aggregate {
                        Aggregate::Sum => Some(scores.sum()),
                        Aggregate::Min => scores.reduce(f32::min),
                        Aggregate::Max => scores.reduce(f32::max),
                    };
                    expected.push(all.unwrap_or(0.0));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
