//! The operators that the topology language offers.

use crate::operator::OperatorSpec;

/// Every operator, in the order of the reference.
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

/// The operator of this name.
pub fn operator(name: &str) -> Option<&'static OperatorSpec> {
    OPERATORS.iter().copied().find(|spec| spec.name == name)
}
