//! The operators that the topology language offers.

use crate::operator::OperatorSpec;

/// Every operator, in the order of the reference.
pub const OPERATORS: &[&OperatorSpec] = &[];

/// The operator of this name.
pub fn operator(name: &str) -> Option<&'static OperatorSpec> {
    OPERATORS.iter().copied().find(|spec| spec.name == name)
}
