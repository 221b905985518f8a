//! The functions that expressions may call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use datafusion_expr::{ScalarUDF, Volatility};

/// What a function makes of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// One value from one row.
    Scalar,
    /// One value from many rows.
    Aggregate,
}

/// The aggregates on offer, by all their names: the name used in messages and fingerprints comes second.
pub(crate) const AGGREGATES: &[(&str, &str)] = &[
    ("avg", "avg"),
    ("count", "count"),
    ("first_value", "first_value"),
    ("last_value", "last_value"),
    ("max", "max"),
    ("mean", "avg"),
    ("min", "min"),
    ("stddev", "stddev"),
    ("stddev_pop", "stddev_pop"),
    ("stddev_samp", "stddev"),
    ("sum", "sum"),
    ("var", "var"),
    ("var_pop", "var_pop"),
    ("var_population", "var_pop"),
    ("var_samp", "var"),
    ("var_sample", "var"),
];

/// Functions that are immutable and still not offered: they speak of Arrow's types or of DataFusion itself, or give what no
/// column can hold.
const HIDDEN: &[&str] = &[
    "arrow_cast",
    "arrow_field",
    "arrow_metadata",
    "arrow_try_cast",
    "arrow_typeof",
    "cast_to_type",
    "element_at",
    "get_field",
    "make_map",
    "map",
    "map_entries",
    "map_extract",
    "map_keys",
    "map_values",
    "try_cast_to_type",
    "union_extract",
    "union_tag",
    "version",
    "with_metadata",
];

pub(super) struct Registry {
    scalars: BTreeMap<String, Arc<ScalarUDF>>,
    /// Aggregates of SQL that are not offered, to be able to say so.
    unoffered_aggregates: BTreeSet<String>,
}

/// What a name stands for.
pub(super) enum Function {
    Scalar(Arc<ScalarUDF>),
    /// A scalar function whose result can change between two calls.
    Mutable,
    Aggregate(&'static str),
    UnofferedAggregate,
    Unknown,
}

impl Registry {
    pub fn get() -> &'static Registry {
        static REGISTRY: OnceLock<Registry> = OnceLock::new();
        REGISTRY.get_or_init(|| {
            let mut scalars = BTreeMap::new();
            let all = datafusion_functions::all_default_functions()
                .into_iter()
                .chain(datafusion_functions_nested::all_default_nested_functions())
                .chain(super::digest::functions())
                .chain(super::geo::functions())
                .chain(super::json::functions());
            for function in all {
                let function = Arc::new(super::bounded::bounded(&function));
                for name in
                    std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str))
                {
                    scalars.insert(name.to_owned(), function.clone());
                }
            }
            let unoffered_aggregates = datafusion_functions_aggregate::all_default_aggregate_functions()
                .iter()
                .flat_map(|function| {
                    std::iter::once(function.name().to_owned()).chain(function.aliases().to_vec())
                })
                .collect();
            Registry { scalars, unoffered_aggregates }
        })
    }

    /// What a name in an expression stands for.
    pub fn lookup(&self, name: &str) -> Function {
        if let Some((_, offered)) = AGGREGATES.iter().find(|(known, _)| *known == name) {
            return Function::Aggregate(offered);
        }
        match self.scalars.get(name) {
            _ if HIDDEN.contains(&name) => Function::Unknown,
            Some(function) if function.signature().volatility == Volatility::Immutable => {
                Function::Scalar(function.clone())
            }
            Some(_) => Function::Mutable,
            None if self.unoffered_aggregates.contains(name) => Function::UnofferedAggregate,
            None => Function::Unknown,
        }
    }

    /// Any scalar function, also one that only the planner itself puts in.
    pub fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }

    /// The names of the scalar functions on offer.
    pub fn scalar_names(&self) -> impl Iterator<Item = &str> {
        self.scalars.iter().filter_map(|(name, function)| {
            let immutable = function.signature().volatility == Volatility::Immutable;
            (immutable && !HIDDEN.contains(&name.as_str())).then_some(name.as_str())
        })
    }
}

/// Every function that expressions may call, by name.
pub fn functions() -> Vec<(String, FunctionKind)> {
    let scalars = Registry::get().scalar_names().map(|name| (name.to_owned(), FunctionKind::Scalar));
    let aggregates = AGGREGATES.iter().map(|(name, _)| ((*name).to_owned(), FunctionKind::Aggregate));
    let mut all: Vec<(String, FunctionKind)> = scalars.chain(aggregates).collect();
    all.sort_by(|left, right| left.0.cmp(&right.0));
    all
}
