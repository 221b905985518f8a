//! Trees in memory, and the walk from their roots to the leaves.
//!
//! A tree is laid out level by level in one array of 12-byte nodes, the two children of a split side by side, and
//! a leaf is its own left child. So a step down is the same handful of instructions for every node, without a
//! branch that could be mispredicted, and several walks run in step to hide each other's memory latency: one tree
//! over several rows, or for a single row several trees.

/// How many walks run in step.
const LANES: usize = 8;
/// How many rows pass one tree after the other while their sums stay in the cache.
const BLOCK: usize = 128;

/// A leaf: it has no children and stays where it is.
const LEAF: u32 = 1;
/// Missing values (NaN) go left.
const MISSING_LEFT: u32 = 2;
/// The split compares for equality instead of less or equal.
const EQUAL: u32 = 4;
/// The feature index lies above the flags.
const FEATURE_SHIFT: u32 = 3;
/// One more than the largest feature index.
pub(super) const MAX_FEATURES: usize = 1 << (32 - FEATURE_SHIFT);

/// A split or a leaf.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// What the feature is compared with. Of a leaf: its payload (see `Leaves`).
    value: f32,
    /// Feature index and flags.
    split: u32,
    /// The left child, the right one follows it. Of a leaf: itself.
    left: u32,
}

/// A split as the trees are built from it: rows with `feature <= value` (or `==`) go left.
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
        Forest { nodes: Vec::new(), trees: Vec::new(), leaves, features, targets, aggregate, any_equal: false }
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
    pub fn add_tree<N, E>(&mut self, root: N, mut node: impl FnMut(N) -> Result<Described<N>, E>) -> Result<(), E>
    where
        E: From<TooLarge>,
    {
        let place = |index: usize| u32::try_from(index).map_err(|_| TooLarge);
        let start = self.nodes.len();
        let mut tree = Tree { root: place(start)?, shallowest: u32::MAX, deepest: 0 };
        let placeholder = Node { value: 0.0, split: LEAF, left: 0 };
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
                        let feature = u32::try_from(split.feature).map_err(|_| TooLarge)?;
                        let flags = if split.equal { EQUAL } else { 0 }
                            | if split.missing_left { MISSING_LEFT } else { 0 };
                        Node { value: split.value, split: feature << FEATURE_SHIFT | flags, left: place(first)? }
                    }
                    Described::Leaf(weights) => {
                        tree.shallowest = tree.shallowest.min(depth);
                        tree.deepest = depth;
                        Node { value: self.leaf(&weights)?, split: LEAF, left: place(index)? }
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

    /// The payload of a leaf.
    fn leaf(&mut self, given: &[Weight]) -> Result<f32, TooLarge> {
        match &mut self.leaves {
            Leaves::Value => Ok(given.iter().map(|weight| weight.value).sum()),
            Leaves::Weights { ranges, weights } => {
                let place = |index: usize| u32::try_from(index).map_err(|_| TooLarge);
                let payload = place(ranges.len())?;
                ranges.push((place(weights.len())?, place(weights.len() + given.len())?));
                weights.extend_from_slice(given);
                Ok(f32::from_bits(payload))
            }
        }
    }

    /// The sums (or minima, maxima) of each row, row by row; 0 where no tree scored a target.
    pub fn sums(&self, rows: &[f32], sums: &mut Vec<f32>) {
        let neutral = match self.aggregate {
            Aggregate::Sum => 0.0,
            Aggregate::Min => f32::INFINITY,
            Aggregate::Max => f32::NEG_INFINITY,
        };
        sums.clear();
        sums.resize(rows.len() / self.features * self.targets, neutral);
        for (rows, sums) in rows.chunks(BLOCK * self.features).zip(sums.chunks_mut(BLOCK * self.targets)) {
            // Forests that compare for equality are rare, the others need not pay for them.
            if self.any_equal { self.block::<true>(rows, sums) } else { self.block::<false>(rows, sums) }
        }
        if self.aggregate != Aggregate::Sum {
            sums.iter_mut().filter(|sum| **sum == neutral).for_each(|sum| *sum = 0.0);
        }
    }

    fn block<const EQ: bool>(&self, rows: &[f32], sums: &mut [f32]) {
        let (width, targets) = (self.features, self.targets);
        let together = rows.len() / (LANES * width) * LANES;
        let (head, tail) = rows.split_at(together * width);
        let (head_sums, tail_sums) = sums.split_at_mut(together * targets);
        if together > 0 {
            for tree in &self.trees {
                for (rows, sums) in
                    head.chunks_exact(LANES * width).zip(head_sums.chunks_exact_mut(LANES * targets))
                {
                    let lanes: [&[f32]; LANES] =
                        std::array::from_fn(|lane| rows.get(lane * width..(lane + 1) * width).unwrap_or_default());
                    let leaves = self.walk::<EQ, LANES>([tree.root; LANES], lanes, tree.shallowest, tree.deepest);
                    for (leaf, sums) in leaves.into_iter().zip(sums.chunks_exact_mut(targets)) {
                        self.add(leaf, sums);
                    }
                }
            }
        }
        for (row, sums) in tail.chunks_exact(width).zip(tail_sums.chunks_exact_mut(targets)) {
            let mut groups = self.trees.chunks_exact(LANES);
            for group in &mut groups {
                let roots = std::array::from_fn(|lane| group.get(lane).map_or(0, |tree| tree.root));
                let shallowest = group.iter().map(|tree| tree.shallowest).min().unwrap_or_default();
                let deepest = group.iter().map(|tree| tree.deepest).max().unwrap_or_default();
                for leaf in self.walk::<EQ, LANES>(roots, [row; LANES], shallowest, deepest) {
                    self.add(leaf, sums);
                }
            }
            for tree in groups.remainder() {
                for leaf in self.walk::<EQ, 1>([tree.root], [row], tree.shallowest, tree.deepest) {
                    self.add(leaf, sums);
                }
            }
        }
    }

    /// Goes from roots to leaves, all lanes in step; none arrives before `shallowest` steps or after `deepest`.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "children and features were checked when the trees were built")]
    fn walk<const EQ: bool, const N: usize>(
        &self,
        mut at: [u32; N],
        rows: [&[f32]; N],
        shallowest: u32,
        deepest: u32,
    ) -> [u32; N] {
        let nodes = self.nodes.as_slice();
        let step = |at: u32, row: &[f32]| {
            let node = nodes[at as usize];
            let x = row[(node.split >> FEATURE_SHIFT) as usize];
            let hit = if EQ && node.split & EQUAL != 0 { x == node.value } else { x <= node.value };
            let stay = node.split & (LEAF | if x.is_nan() { MISSING_LEFT } else { 0 });
            node.left + (u32::from(!hit) & u32::from(stay == 0))
        };
        for _ in 0..shallowest {
            for lane in 0..N {
                at[lane] = step(at[lane], rows[lane]);
            }
        }
        for _ in shallowest..deepest {
            let mut moved = 0;
            for lane in 0..N {
                let next = step(at[lane], rows[lane]);
                moved |= next ^ at[lane];
                at[lane] = next;
            }
            if moved == 0 {
                break;
            }
        }
        at
    }

    /// Adds what a leaf gives to the sums of a row.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "walks end at leaves, and their weights were checked when built")]
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

/// A node as `Forest::add_tree` learns of it.
pub(super) enum Described<N> {
    /// A split with its left and right child.
    Split(Split, N, N),
    /// A leaf with what it gives.
    Leaf(Vec<Weight>),
}

/// There are more nodes than 32 bits can count.
#[derive(Debug)]
pub(super) struct TooLarge;
