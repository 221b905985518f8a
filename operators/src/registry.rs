//! What the topology language offers: operators and functions.

use std::sync::Arc;

use datafusion_expr::{AggregateUDF, ScalarUDF};

use crate::operator::OperatorSpec;
use crate::sql::{FunctionError, Functions};

/// Every operator of Millstream, in the order of the reference.
pub const OPERATORS: &[&OperatorSpec] = &[
    &crate::filter::SPEC,
    &crate::select::SPEC,
    &crate::explode::SPEC,
    &crate::rekey::SPEC,
    &crate::branch::SPEC,
    &crate::merge::SPEC,
    &crate::aggregate::SPEC,
    &crate::features::SPEC,
    &crate::join::SPEC,
    &crate::dedup::SPEC,
    &crate::suppress::SPEC,
    &crate::top::SPEC,
    &crate::predict::SPEC,
    &crate::to_stream::SPEC,
    &crate::to_table::SPEC,
];

/// What topologies may use: the operators and functions of Millstream, and those that a program adds.
#[derive(Clone, Debug)]
pub struct Registry {
    operators: Vec<&'static OperatorSpec>,
    functions: Arc<Functions>,
}

/// Why something cannot be added to a [`Registry`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// A topology could not tell two operators apart.
    #[error("there is an operator `{0}` already: give yours another name")]
    OperatorTaken(String),
    /// A topology would not read well with it.
    #[error(
        "`{0}` cannot be the name of an operator: use lower case letters, digits and `-`, and begin with a letter"
    )]
    OperatorName(String),
    /// A function does not fit.
    #[error(transparent)]
    Function(#[from] FunctionError),
}

impl Default for Registry {
    fn default() -> Self {
        Registry { operators: OPERATORS.to_vec(), functions: Functions::built_in() }
    }
}

impl Registry {
    /// What Millstream has itself.
    pub fn new() -> Self {
        Registry::default()
    }

    /// Adds an operator.
    ///
    /// # Errors
    /// If its name is taken or not one for operators.
    pub fn with_operator(mut self, spec: &'static OperatorSpec) -> Result<Self, RegistryError> {
        let name = spec.name;
        let is_word = name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|letter| matches!(letter, 'a'..='z' | '0'..='9' | '-'));
        if !is_word {
            return Err(RegistryError::OperatorName(name.to_owned()));
        }
        if self.operator(name).is_some() {
            return Err(RegistryError::OperatorTaken(name.to_owned()));
        }
        self.operators.push(spec);
        Ok(self)
    }

    /// Adds a function of one row, which all expressions may call.
    ///
    /// # Errors
    /// If one of its names is taken or cannot be written in an expression, or if it is not immutable.
    pub fn with_scalar_function(mut self, function: ScalarUDF) -> Result<Self, RegistryError> {
        Arc::make_mut(&mut self.functions).add_scalar(function)?;
        Ok(self)
    }

    /// Adds a function of many rows, which `aggregate` and `features` may call. What its accumulators give as their state is
    /// stored; where its meaning changes, the function needs another name.
    ///
    /// # Errors
    /// If one of its names is taken or cannot be written in an expression, or if it is not immutable.
    pub fn with_aggregate_function(mut self, function: AggregateUDF) -> Result<Self, RegistryError> {
        Arc::make_mut(&mut self.functions).add_aggregate(function)?;
        Ok(self)
    }

    /// Every operator, in the order of the reference.
    pub fn operators(&self) -> &[&'static OperatorSpec] {
        &self.operators
    }

    /// The operator of this name.
    pub fn operator(&self, name: &str) -> Option<&'static OperatorSpec> {
        self.operators.iter().copied().find(|spec| spec.name == name)
    }

    /// Every function.
    pub fn functions(&self) -> &Arc<Functions> {
        &self.functions
    }
}
