//! The functions that expressions may call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use datafusion_expr::{AggregateUDF, ScalarUDF, Volatility};

use crate::config::is_word;

/// What a function makes of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// One value from one row.
    Scalar,
    /// One value from many rows.
    Aggregate,
}

/// The aggregates that are computed here, by all their names: the name used in messages and fingerprints comes second.
const AGGREGATES: &[(&str, &str)] = &[
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

/// The aggregates of DataFusion whose state can be stored and merged and does not grow with the rows.
const MERGEABLE: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
];

/// Those of DataFusion that remember every value, which only a window bounds.
const GROWING: &[&str] = &["array_agg", "median", "percentile_cont", "string_agg"];

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

/// The functions that expressions may call, by name.
#[derive(Clone, Debug)]
pub struct Functions {
    scalars: BTreeMap<String, Arc<ScalarUDF>>,
    /// Those that are not computed here.
    aggregates: BTreeMap<String, AggregateFunction>,
    /// Aggregates of SQL that are not offered, to be able to say so.
    unoffered_aggregates: BTreeSet<String>,
}

/// An aggregate that is a function of DataFusion's kind.
#[derive(Clone, Debug)]
pub(crate) struct AggregateFunction {
    pub function: Arc<AggregateUDF>,
    /// Whether it is DataFusion's own, and not a user's.
    pub built_in: bool,
    /// Whether it remembers every value.
    pub grows: bool,
}

/// An aggregate on offer.
#[derive(Clone, Debug)]
pub(crate) enum Aggregate {
    /// One that is computed here.
    Exact(&'static str),
    /// One that is computed by its function.
    Function(AggregateFunction),
}

impl Aggregate {
    /// As it is called.
    pub fn name(&self) -> &str {
        match self {
            Aggregate::Exact(name) => name,
            Aggregate::Function(function) => function.function.name(),
        }
    }
}

/// What a name stands for.
pub(super) enum Function {
    Scalar(Arc<ScalarUDF>),
    /// A scalar function whose result can change between two calls.
    Mutable,
    Aggregate(Aggregate),
    UnofferedAggregate,
    Unknown,
}

/// Why a function cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// Expressions know another one by this name.
    #[error("there is a function `{0}` already: give yours another name")]
    Taken(String),
    /// Expressions could not call it.
    #[error(
        "`{0}` cannot be called in an expression: use lower case letters, digits and `_`, and begin with a letter"
    )]
    Name(String),
    /// Its result does not depend on its arguments alone.
    #[error(
        "`{0}` is not immutable: a result has to depend on the arguments alone, so that a restart changes nothing"
    )]
    NotImmutable(String),
}

impl Functions {
    /// What every topology may call.
    pub fn built_in() -> Arc<Functions> {
        static BUILT_IN: OnceLock<Arc<Functions>> = OnceLock::new();
        BUILT_IN.get_or_init(|| Arc::new(Functions::of_datafusion())).clone()
    }

    fn of_datafusion() -> Functions {
        let mut functions = Functions {
            scalars: BTreeMap::new(),
            aggregates: BTreeMap::new(),
            unoffered_aggregates: BTreeSet::new(),
        };
        let scalars = datafusion_functions::all_default_functions()
            .into_iter()
            .chain(datafusion_functions_nested::all_default_nested_functions())
            .chain(super::digest::functions())
            .chain(super::geo::functions())
            .chain(super::json::functions());
        for function in scalars {
            let function = Arc::new(super::bounded::bounded(&function));
            for name in names(function.name(), function.aliases()) {
                functions.scalars.insert(name, function.clone());
            }
        }
        for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
            for name in names(function.name(), function.aliases()) {
                let grows = GROWING.contains(&function.name());
                if grows || MERGEABLE.contains(&function.name()) {
                    let function = AggregateFunction { function: function.clone(), built_in: true, grows };
                    functions.aggregates.insert(name, function);
                } else {
                    functions.unoffered_aggregates.insert(name);
                }
            }
        }
        functions
    }

    /// Adds a scalar function.
    ///
    /// # Errors
    /// If one of its names is taken or cannot be written in an expression, or if it is not immutable.
    pub fn add_scalar(&mut self, function: ScalarUDF) -> Result<(), FunctionError> {
        let name = function.name().to_owned();
        if function.signature().volatility != Volatility::Immutable {
            return Err(FunctionError::NotImmutable(name));
        }
        let function = Arc::new(function);
        for name in names(function.name(), function.aliases()) {
            self.check_name(&name)?;
            self.scalars.insert(name, function.clone());
        }
        Ok(())
    }

    /// Adds an aggregate function: its state is what its accumulators give and merge.
    ///
    /// # Errors
    /// If one of its names is taken or cannot be written in an expression, or if it is not immutable.
    pub fn add_aggregate(&mut self, function: AggregateUDF) -> Result<(), FunctionError> {
        let name = function.name().to_owned();
        if function.signature().volatility != Volatility::Immutable {
            return Err(FunctionError::NotImmutable(name));
        }
        let function = AggregateFunction { function: Arc::new(function), built_in: false, grows: false };
        for name in names(function.function.name(), function.function.aliases()) {
            self.check_name(&name)?;
            self.aggregates.insert(name, function.clone());
        }
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<(), FunctionError> {
        if !is_word(name) {
            return Err(FunctionError::Name(name.to_owned()));
        }
        match self.lookup(name) {
            Function::Unknown if !self.scalars.contains_key(name) => Ok(()),
            _ => Err(FunctionError::Taken(name.to_owned())),
        }
    }

    /// What a name in an expression stands for.
    pub(super) fn lookup(&self, name: &str) -> Function {
        if let Some((_, offered)) = AGGREGATES.iter().find(|(known, _)| *known == name) {
            return Function::Aggregate(Aggregate::Exact(offered));
        }
        if let Some(function) = self.aggregates.get(name) {
            return Function::Aggregate(Aggregate::Function(function.clone()));
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
    pub(super) fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }

    /// The names of the aggregates on offer, each once.
    pub(super) fn aggregate_names(&self) -> impl Iterator<Item = &str> {
        let exact = AGGREGATES.iter().filter(|(name, canonical)| name == canonical).map(|(name, _)| *name);
        let functions = self.aggregates.iter().filter(|(name, of)| of.function.name() == name.as_str());
        exact.chain(functions.map(|(name, _)| name.as_str()))
    }

    /// Everything that expressions may call, by all names.
    pub fn names(&self) -> Vec<(String, FunctionKind)> {
        let is_offered = |name: &str, function: &ScalarUDF| {
            function.signature().volatility == Volatility::Immutable && !HIDDEN.contains(&name)
        };
        let scalars = self.scalars.iter().filter(|(name, function)| is_offered(name, function));
        let scalars = scalars.map(|(name, _)| (name.clone(), FunctionKind::Scalar));
        let exact = AGGREGATES.iter().map(|(name, _)| (*name).to_owned());
        let aggregates = exact.chain(self.aggregates.keys().cloned());
        let mut all: Vec<(String, FunctionKind)> =
            scalars.chain(aggregates.map(|name| (name, FunctionKind::Aggregate))).collect();
        all.sort_by(|left, right| left.0.cmp(&right.0));
        all
    }
}

fn names(name: &str, aliases: &[String]) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(aliases.iter().filter(|alias| *alias != name).cloned());
    names
}
