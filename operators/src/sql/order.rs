//! Orders of rows: `price desc, at`.

use std::ops::Range;

use datafusion_sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::source::Source;
use super::{Expression, Scope, SqlError, compile, errors};
use crate::diagnostic::Code;

/// One of the expressions that decide an order, the more important ones first.
#[derive(Clone, Debug)]
pub struct OrderBy {
    /// What is compared.
    pub expression: Expression,
    /// Whether the largest comes first.
    pub descending: bool,
}

/// Compiles a list of expressions, each with `asc` (default) or `desc` behind it.
pub fn compile_order(sql: &str, scope: &Scope) -> Result<Vec<OrderBy>, Vec<SqlError>> {
    let source = errors::tokenize(sql).map_err(|error| vec![error])?;
    let mut order = Vec::new();
    let mut found = Vec::new();
    for item in items(&source) {
        let (expression, descending) = match split_direction(&source, &item) {
            Ok(split) => split,
            Err(error) => {
                found.push(error);
                continue;
            }
        };
        match compile(source.slice(&expression), scope) {
            Ok(compiled) => order.push(OrderBy { expression: compiled, descending }),
            Err(errors) => found.extend(errors.into_iter().map(|error| SqlError {
                span: error.span.start + expression.start..error.span.end + expression.start,
                help: error.help.or_else(|| {
                    let is_syntax = error.code == Code::SqlSyntax;
                    is_syntax.then(|| "behind an expression stands `asc`, `desc` or a comma".to_owned())
                }),
                ..error
            })),
        }
    }
    if found.is_empty() { Ok(order) } else { Err(found) }
}

/// The tokens of each item, without white space and comments.
fn items<'s>(source: &'s Source<'_>) -> Vec<Vec<&'s TokenWithSpan>> {
    let mut items = vec![Vec::new()];
    let mut open = 0;
    for token in &source.raw {
        match &token.token {
            Token::Whitespace(_) | Token::EOF => continue,
            Token::LParen | Token::LBracket | Token::LBrace => open += 1,
            Token::RParen | Token::RBracket | Token::RBrace => open -= 1,
            Token::Comma if open == 0 => {
                items.push(Vec::new());
                continue;
            }
            _ => {}
        }
        if let Some(item) = items.last_mut() {
            item.push(token);
        }
    }
    items
}

/// The place of an item's expression, and whether its order is turned.
fn split_direction(source: &Source<'_>, item: &[&TokenWithSpan]) -> Result<(Range<usize>, bool), SqlError> {
    let is_word = |token: &TokenWithSpan, word: &str| matches!(&token.token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word));
    let place = |tokens: &[&TokenWithSpan]| match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => source.offset(first.span.start)..source.offset(last.span.end),
        _ => 0..0,
    };
    if let [.., nulls, last] = item
        && is_word(nulls, "nulls")
        && (is_word(last, "first") || is_word(last, "last"))
    {
        return Err(SqlError {
            code: Code::SqlNotAllowed,
            span: place(&[nulls, last]),
            message: "where nulls are is not for the order to say".to_owned(),
            help: Some("leave it out: nulls come last, with `desc` too".to_owned()),
        });
    }
    match item {
        [expression @ .., last] if !expression.is_empty() && is_word(last, "desc") => {
            Ok((place(expression), true))
        }
        [expression @ .., last] if !expression.is_empty() && is_word(last, "asc") => {
            Ok((place(expression), false))
        }
        [] => Err(SqlError {
            code: Code::SqlSyntax,
            span: source.whole(),
            message: "an expression of the order is empty".to_owned(),
            help: Some("name columns, the more important ones first: \"price desc, at\"".to_owned()),
        }),
        expression => Ok((place(expression), false)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::schema::{Kind, Schema, TIMESTAMP, column};
    use crate::sql::Functions;

    fn order(sql: &str) -> Result<Vec<OrderBy>, Vec<SqlError>> {
        let columns = vec![column("price", DataType::Int64), column("at", TIMESTAMP)];
        let schema = Schema::new(Kind::Stream, Vec::new(), columns);
        compile_order(sql, &Scope::new(&Functions::built_in(), &[("p", &schema)]))
    }

    #[test]
    fn an_order_is_a_list_of_expressions_with_directions() {
        let order = order("price DESC, at, coalesce(price, 0) asc , price * 2 desc").unwrap();
        let order: Vec<(&str, bool)> = order.iter().map(|by| (by.expression.text(), by.descending)).collect();
        assert_eq!(
            order,
            [("price", true), ("at", false), ("coalesce(price, 0)", false), ("price * 2", true)]
        );
    }

    #[test]
    fn mistakes_have_their_places() {
        let places = |sql: &str| {
            order(sql).unwrap_err().into_iter().map(|error| sql[error.span].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(places("at, prize desc, nothing"), ["prize", "nothing"]);
        assert_eq!(places("price nulls first"), ["nulls first"]);
        assert_eq!(places("price,, at"), ["price,, at"]);
    }
}
