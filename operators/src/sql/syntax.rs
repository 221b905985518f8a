//! Which SQL syntax an expression may use, and the parts of a syntax node.

use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CaseWhen, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Interval, Subscript, UnaryOperator, Value,
};

/// The same walk over shared and over mutable nodes.
macro_rules! parts {
    ($expr:ident, $one:ident, $all:ident) => {
        match $expr {
            Expr::CompoundFieldAccess { root, access_chain } => {
                let mut parts = vec![root.$one()];
                for access in access_chain.$all() {
                    match access {
                        AccessExpr::Dot(inner) => parts.push(inner),
                        AccessExpr::Subscript(Subscript::Index { index }) => parts.push(index),
                        AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                            parts.extend(lower_bound.$one());
                            parts.extend(upper_bound.$one());
                            parts.extend(stride.$one());
                        }
                    }
                }
                parts
            }
            Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner)
            | Expr::Nested(inner)
            | Expr::UnaryOp { expr: inner, .. }
            | Expr::Cast { expr: inner, .. }
            | Expr::AtTimeZone { timestamp: inner, .. }
            | Expr::Extract { expr: inner, .. }
            | Expr::Ceil { expr: inner, .. }
            | Expr::Floor { expr: inner, .. }
            | Expr::Named { expr: inner, .. }
            | Expr::Interval(Interval { value: inner, .. }) => vec![inner.$one()],
            Expr::IsDistinctFrom(left, right)
            | Expr::IsNotDistinctFrom(left, right)
            | Expr::BinaryOp { left, right, .. }
            | Expr::AnyOp { left, right, .. }
            | Expr::AllOp { left, right, .. }
            | Expr::Like { expr: left, pattern: right, .. }
            | Expr::ILike { expr: left, pattern: right, .. }
            | Expr::SimilarTo { expr: left, pattern: right, .. }
            | Expr::Position { expr: left, r#in: right } => vec![left.$one(), right.$one()],
            Expr::InList { expr, list, .. } => {
                let mut parts = vec![expr.$one()];
                parts.extend(list.$all());
                parts
            }
            Expr::Between { expr, low, high, .. } => vec![expr.$one(), low.$one(), high.$one()],
            Expr::Substring { expr, substring_from, substring_for, .. } => {
                let mut parts = vec![expr.$one()];
                parts.extend(substring_from.$one().map(|inner| inner.$one()));
                parts.extend(substring_for.$one().map(|inner| inner.$one()));
                parts
            }
            Expr::Trim { expr, trim_what, trim_characters, .. } => {
                let mut parts = Vec::new();
                parts.extend(trim_what.$one().map(|inner| inner.$one()));
                parts.push(expr.$one());
                parts.extend(trim_characters.$all().flatten());
                parts
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut parts = vec![expr.$one(), overlay_what.$one(), overlay_from.$one()];
                parts.extend(overlay_for.$one().map(|inner| inner.$one()));
                parts
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                let mut parts = Vec::new();
                parts.extend(operand.$one().map(|inner| inner.$one()));
                for CaseWhen { condition, result } in conditions.$all() {
                    parts.extend([condition, result]);
                }
                parts.extend(else_result.$one().map(|inner| inner.$one()));
                parts
            }
            Expr::Array(array) => array.elem.$all().collect(),
            Expr::Struct { values, .. } => values.$all().collect(),
            Expr::Function(Function { args, filter, .. }) => {
                let mut parts = Vec::new();
                if let FunctionArguments::List(FunctionArgumentList { args, .. }) = args {
                    parts.extend(args.$all().filter_map(|argument| match argument {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(inner)) => Some(inner),
                        _ => None,
                    }));
                }
                parts.extend(filter.$one().map(|inner| inner.$one()));
                parts
            }
            _ => Vec::new(),
        }
    };
}

/// The expressions directly inside of an expression, in the order of the text.
pub(super) fn children(expr: &Expr) -> Vec<&Expr> {
    parts!(expr, as_ref, iter)
}

/// The expressions directly inside of an expression, in the order of the text.
pub(super) fn children_mut(expr: &mut Expr) -> Vec<&mut Expr> {
    parts!(expr, as_mut, iter_mut)
}

/// How deeply the expression is nested; counted without recursion, since a chain of operators may be very long.
pub(super) fn depth(expr: &Expr) -> usize {
    let mut deepest = 0;
    let mut open = vec![(expr, 1)];
    while let Some((expr, depth)) = open.pop() {
        deepest = deepest.max(depth);
        open.extend(children(expr).into_iter().map(|child| (child, depth + 1)));
    }
    deepest
}

/// Why a piece of syntax is not allowed; `None` if it is. Names, functions and the parts inside are checked elsewhere.
pub(super) fn refusal(expr: &Expr) -> Option<String> {
    let allowed = match expr {
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::CompoundFieldAccess { .. }
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(_, _)
        | Expr::IsNotDistinctFrom(_, _)
        | Expr::InList { .. }
        | Expr::Between { .. }
        | Expr::Like { any: false, .. }
        | Expr::ILike { any: false, .. }
        | Expr::SimilarTo { .. }
        | Expr::UnaryOp { op: UnaryOperator::Not | UnaryOperator::Minus | UnaryOperator::Plus, .. }
        | Expr::Cast { array: false, format: None, .. }
        | Expr::Extract { .. }
        | Expr::Ceil { field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime), .. }
        | Expr::Floor { field: CeilFloorKind::DateTimeField(DateTimeField::NoDateTime), .. }
        | Expr::Position { .. }
        | Expr::Substring { .. }
        | Expr::Trim { .. }
        | Expr::Overlay { .. }
        | Expr::Nested(_)
        | Expr::TypedString(_)
        | Expr::Function(_)
        | Expr::Case { .. }
        | Expr::Array(_)
        | Expr::Named { .. }
        | Expr::Interval(_) => true,
        Expr::Struct { fields, .. } => fields.is_empty(),
        Expr::AtTimeZone { time_zone, .. } => matches!(**time_zone, Expr::Value(_)),
        Expr::BinaryOp { op, .. } => return operator_refusal(op),
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
            if matches!(**right, Expr::Subquery(_)) {
                return Some(SUBQUERY.to_owned());
            }
            true
        }
        Expr::Value(value) => match value.value {
            Value::Placeholder(_) => return Some("a placeholder has no value here".to_owned()),
            _ => true,
        },
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            return Some(SUBQUERY.to_owned());
        }
        Expr::Wildcard(_) | Expr::QualifiedWildcard(_, _) => {
            return Some("`*` stands for no single column".to_owned());
        }
        Expr::Lambda(_) => return Some("a lambda function is not offered".to_owned()),
        Expr::Tuple(_) => return Some("a tuple is not offered; compare the columns one by one".to_owned()),
        Expr::JsonAccess { .. } => return Some("JSON path access with `:` is not offered".to_owned()),
        Expr::Collate { .. } => {
            return Some("strings are compared bytewise; `collate` is not offered".to_owned());
        }
        _ => false,
    };
    (!allowed).then(|| "this SQL is not offered in expressions".to_owned())
}

const SUBQUERY: &str = "a subquery is not allowed: an expression sees one row";

fn operator_refusal(op: &BinaryOperator) -> Option<String> {
    let allowed = matches!(
        op,
        BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
            | BinaryOperator::StringConcat
            | BinaryOperator::Gt
            | BinaryOperator::Lt
            | BinaryOperator::GtEq
            | BinaryOperator::LtEq
            | BinaryOperator::Spaceship
            | BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::And
            | BinaryOperator::Or
            | BinaryOperator::BitwiseOr
            | BinaryOperator::BitwiseAnd
            | BinaryOperator::BitwiseXor
            | BinaryOperator::PGBitwiseXor
            | BinaryOperator::PGBitwiseShiftLeft
            | BinaryOperator::PGBitwiseShiftRight
            | BinaryOperator::PGRegexMatch
            | BinaryOperator::PGRegexIMatch
            | BinaryOperator::PGRegexNotMatch
            | BinaryOperator::PGRegexNotIMatch
            | BinaryOperator::PGLikeMatch
            | BinaryOperator::PGILikeMatch
            | BinaryOperator::PGNotLikeMatch
            | BinaryOperator::PGNotILikeMatch
    );
    (!allowed).then(|| format!("the operator `{op}` is not offered"))
}
