//! What is wrong with an expression, and where.
//!
//! The planner's own errors often have no place and speak of DataFusion. So the parts of an expression are planned one by
//! one from the inside out: the smallest part that fails is the place, and the types of its own parts are the message.

use std::ops::Range;

use arrow::datatypes::DataType;
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token};

use super::SqlError;
use super::functions::Function;
use super::plan::{Columns, PlanError, is_string, plan};
use super::resolve::column_index;
use super::source::{MAX_TOKENS, Source, SourceError};
use super::syntax::{children, depth};
use crate::diagnostic::{Code, listed};
use crate::schema::type_name;

/// An expression nested more deeply is refused; each operator of a chain counts.
const MAX_DEPTH: usize = 100;

fn error(code: Code, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> SqlError {
    SqlError { code, span, message: message.into(), help }
}

/// Splits the text into tokens.
pub(super) fn tokenize(sql: &str) -> Result<Source<'_>, SqlError> {
    Source::new(sql).map_err(|problem| match problem {
        SourceError::Token { message, at } => {
            let end = sql
                .get(at..)
                .and_then(|rest| rest.chars().next())
                .map_or(at, |letter| at + letter.len_utf8());
            error(Code::SqlSyntax, at..end, sentence(&message), None)
        }
        SourceError::TooLong => {
            let message = format!("the expression is too long: more than {MAX_TOKENS} words and signs");
            error(Code::SqlNotAllowed, 0..sql.len(), message, Some("split it into several steps".to_owned()))
        }
    })
}

/// Reads the tokens as one expression.
pub(super) fn parse(source: &Source<'_>) -> Result<Expr, SqlError> {
    let whole = source.whole();
    if whole.is_empty() {
        return Err(error(
            Code::SqlSyntax,
            0..source.text.len(),
            "the expression is empty",
            Some("write SQL over the columns of the input, such as `amount > 0`".to_owned()),
        ));
    }
    let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(source.raw.clone());
    let syntax = parser.parse_expr().map_err(|problem| match problem {
        ParserError::RecursionLimitExceeded => too_deep(whole.clone()),
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => {
            let (message, location) = split_location(&text);
            let span = match location {
                Some(location) => source.token_at(source.offset(location)),
                None => source.last_token(),
            };
            error(Code::SqlSyntax, span, sentence(message), None)
        }
    })?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let span = source.bytes(rest.span).unwrap_or_else(|| source.last_token());
        let help = match rest.token {
            Token::Overlap => Some("write `and`".to_owned()),
            Token::Comma => Some("one expression gives one column".to_owned()),
            Token::SemiColon => Some("an expression ends without `;`".to_owned()),
            _ => None,
        };
        let message = format!("expected an operator or the end, found `{}`", source.slice(&span));
        return Err(error(Code::SqlSyntax, span, message, help));
    }
    if depth(&syntax) > MAX_DEPTH {
        return Err(too_deep(whole));
    }
    Ok(syntax)
}

fn too_deep(span: Range<usize>) -> SqlError {
    let help = "split it into several steps; a long chain of `or` over one column is an `in (…)`";
    let message = format!("the expression is nested too deeply: more than {MAX_DEPTH} levels");
    error(Code::SqlNotAllowed, span, message, Some(help.to_owned()))
}

/// The parser puts the place at the end of its words: ` at Line: 1, Column: 9`.
fn split_location(text: &str) -> (&str, Option<Location>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    let location = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?))
    });
    (if location.is_some() { message } else { text }, location)
}

/// The parser's words as a message of ours.
fn sentence(text: &str) -> String {
    let text = text
        .replace("Expected: ", "expected ")
        .replace(", found: ", ", found ")
        .replace("found EOF", "found the end");
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Adds the mistakes in the types of `syntax`. Parts in which a mistake has been found already are left alone.
pub(super) fn locate(
    source: &Source<'_>,
    syntax: &Expr,
    columns: &Columns,
    found: &mut Vec<SqlError>,
) -> Option<DataType> {
    let range = source.range(syntax);
    if found.iter().any(|error| error.span.start <= range.start && range.end <= error.span.end) {
        return None;
    }
    let parts: Vec<Part<'_>> = children(syntax)
        .into_iter()
        .map(|child| Part { syntax: child, data_type: locate(source, child, columns, found) })
        .collect();
    match syntax {
        Expr::Named { .. } => return parts.into_iter().next().and_then(|part| part.data_type),
        // A name that was not resolved has been reported.
        _ if is_unresolved(syntax) => return None,
        Expr::CompoundFieldAccess { root, .. } if is_unresolved(root) => return None,
        _ => {}
    }
    let broken = |error: &SqlError| range.start <= error.span.start && error.span.end <= range.end;
    if found.iter().any(broken) {
        return None;
    }
    match plan(syntax, columns) {
        Ok(planned) => Some(planned.data_type),
        Err(problem) => {
            found.push(describe(source, syntax, range, &parts, problem, columns));
            None
        }
    }
}

fn is_unresolved(syntax: &Expr) -> bool {
    matches!(syntax, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) && column_index(syntax).is_none()
}

/// A part of a failing node, and its type.
struct Part<'a> {
    syntax: &'a Expr,
    data_type: Option<DataType>,
}

fn describe(
    source: &Source<'_>,
    syntax: &Expr,
    range: Range<usize>,
    parts: &[Part<'_>],
    problem: PlanError,
    columns: &Columns,
) -> SqlError {
    let text = source.slice(&range);
    match problem {
        PlanError::NotAllowed(message) => error(Code::SqlNotAllowed, range, message, None),
        PlanError::Constant(message) => {
            error(Code::SqlConstantFails, range.clone(), format!("`{text}` always fails: {message}"), None)
        }
        PlanError::StringNumber { from, .. } => {
            let (message, help) = string_number(source, parts, &from);
            error(Code::SqlStringNumber, range, message, Some(help))
        }
        PlanError::Types(_) if matches!(syntax, Expr::BinaryOp { .. }) && is_mixed(parts) => {
            let (message, help) = string_number(source, parts, &DataType::Utf8);
            error(Code::SqlStringNumber, range, message, Some(help))
        }
        PlanError::Types(message) => {
            let types: Vec<String> =
                parts.iter().filter_map(|part| part.data_type.as_ref()).map(type_name).collect();
            let code = if matches!(syntax, Expr::Function(_)) { Code::SqlArguments } else { Code::SqlTypes };
            let (message, help) = type_problem(syntax, &types, message, columns);
            error(code, range, message, help)
        }
    }
}

/// `an int64`, `a string`.
pub(super) fn with_article(name: &str) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}

fn is_mixed(parts: &[Part<'_>]) -> bool {
    let any =
        |wanted: fn(&DataType) -> bool| parts.iter().any(|part| part.data_type.as_ref().is_some_and(wanted));
    any(is_string) && any(DataType::is_numeric)
}

fn string_number(source: &Source<'_>, parts: &[Part<'_>], from: &DataType) -> (String, String) {
    let find = |wanted: fn(&DataType) -> bool| {
        parts.iter().find_map(|part| {
            let data_type = part.data_type.as_ref().filter(|data_type| wanted(data_type))?;
            Some((source.slice(&source.range(part.syntax)), data_type, matches!(part.syntax, Expr::Value(_))))
        })
    };
    match (find(is_string), find(DataType::is_numeric)) {
        (Some((string, _, string_literal)), Some((number, data_type, number_literal))) => {
            let message = format!(
                "`{string}` is a string and `{number}` a number ({}): they are not mixed",
                type_name(data_type)
            );
            let as_string =
                if number_literal { format!("`'{number}'`") } else { format!("`cast({number} as string)`") };
            let bare = string.trim_matches('\'');
            let help = match (string_literal, bare.parse::<f64>()) {
                (true, Ok(_)) => format!("write `{bare}` or {as_string}"),
                (true, Err(_)) => format!("write {as_string}"),
                (false, _) => format!("write `cast({string} as {})` or {as_string}", cast_name(data_type)),
            };
            (message, help)
        }
        (Some((string, _, _)), None) => (
            format!("`{string}` is a string where a number is needed"),
            format!("write `cast({string} as double)`"),
        ),
        (None, Some((number, data_type, _))) => (
            format!("`{number}` is a number ({}) where a string is needed", type_name(data_type)),
            format!("write `cast({number} as string)`"),
        ),
        (None, None) if is_string(from) => {
            ("a string is used as a number".to_owned(), "say so: `cast(… as double)`".to_owned())
        }
        (None, None) => ("a number is used as a string".to_owned(), "say so: `cast(… as string)`".to_owned()),
    }
}

/// A type's name in a cast.
fn cast_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Float64 => "double".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Decimal128(_, _) => type_name(data_type),
        DataType::Int32 => "int".to_owned(),
        _ => "bigint".to_owned(),
    }
}

fn type_problem(
    syntax: &Expr,
    types: &[String],
    planner: String,
    columns: &Columns,
) -> (String, Option<String>) {
    let list = types.join(" and ");
    match syntax {
        Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. } => {
            (format!("`and` and `or` need a bool on both sides, here are {list}"), None)
        }
        Expr::BinaryOp { op, .. } => {
            let bools = types.iter().all(|name| name == "bool");
            let help = (*op == BinaryOperator::StringConcat && bools)
                .then(|| "for conditions write `or`".to_owned());
            (format!("`{}` does not go with {list}", op.to_string().to_lowercase()), help)
        }
        Expr::UnaryOp { op: UnaryOperator::Not, .. } => {
            (format!("`not` needs a bool, this is {}", with_article(&list)), None)
        }
        Expr::UnaryOp { op, .. } => (format!("`{op}` needs a number, this is {}", with_article(&list)), None),
        Expr::Function(function) => {
            let name = function.name.to_string();
            let usage = match columns.functions().lookup(&name) {
                Function::Scalar(function) => function
                    .documentation()
                    .map(|documentation| documentation.syntax_example.trim().to_owned()),
                _ => None,
            };
            let message = format!("`{name}` does not take ({})", types.join(", "));
            (message, usage.map(|usage| format!("it is used as `{usage}`")))
        }
        Expr::Cast { data_type, .. } if is_type(syntax, columns) => {
            let (from, to) = (with_article(&list), with_article(&data_type.to_string().to_lowercase()));
            (format!("{from} cannot become {to}"), None)
        }
        Expr::Cast { data_type, .. } => {
            let known = [
                "bool",
                "int",
                "bigint",
                "real",
                "double",
                "decimal(p,s)",
                "string",
                "bytes",
                "date",
                "timestamp",
            ];
            let message = format!("there is no type `{data_type}` to cast to");
            (message, Some(format!("types are {}", listed(known))))
        }
        Expr::Case { .. } => (format!("the parts of `case` do not go together: {list}"), None),
        Expr::InList { .. } | Expr::Between { .. } => (format!("these are not compared: {list}"), None),
        Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. } => (
            format!("`like` compares strings, here are {list}"),
            Some("write `cast(… as string)`".to_owned()),
        ),
        Expr::CompoundFieldAccess { .. } => {
            let of = types.first().cloned().unwrap_or_default();
            (
                format!(
                    "`[…]` needs a list and a number, or a struct and a field's name; this is {}",
                    with_article(&of)
                ),
                None,
            )
        }
        Expr::Interval(_) => (
            "this is no interval".to_owned(),
            Some("an interval is written `interval '90 minutes'`".to_owned()),
        ),
        Expr::Extract { field, .. } => {
            (format!("`extract({field} from …)` does not go with {}", with_article(&list)), None)
        }
        _ if types.is_empty() => (planner, None),
        _ => (format!("the types do not go together: {list}"), None),
    }
}

/// Whether the type of a cast is known: null can be cast to every type.
fn is_type(cast: &Expr, columns: &Columns) -> bool {
    let mut cast = cast.clone();
    if let Expr::Cast { expr, .. } = &mut cast {
        **expr = Expr::value(Value::Null);
    }
    plan(&cast, columns).is_ok()
}

/// A result that no column can hold.
pub(super) fn no_column(source: &Source<'_>, syntax: &Expr, data_type: &DataType) -> SqlError {
    let help = match data_type {
        DataType::Null => "say which type is null, as in `cast(null as string)`",
        DataType::Duration(_) | DataType::Interval(_) => {
            "milliseconds are a number: `cast(later as bigint) - cast(earlier as bigint)`"
        }
        _ => "cast it to a type of the language, as in `cast(… as string)`",
    };
    let message = format!("the result is of type {}, which no column has", type_name(data_type));
    error(Code::SqlResultType, source.range(syntax), message, Some(help.to_owned()))
}

/// An expression that fails as a whole although each of its parts plans.
pub(super) fn unexplained(source: &Source<'_>, syntax: &Expr) -> SqlError {
    error(Code::SqlTypes, source.range(syntax), "this expression cannot be computed", None)
}
