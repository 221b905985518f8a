//! SQL expressions over the columns of a node: parsed, checked, typed, and evaluated batch by batch.
//!
//! A row's result is what the row gives alone: it depends on no other row of the batch, on no clock and on no setting.
//! Arithmetic is checked: integers never wrap, and a failing row is an error of that row only.

mod bounded;
mod digest;
mod errors;
mod evaluate;
mod functions;
mod geo;
mod json;
mod order;
mod plan;
mod resolve;
mod source;
mod syntax;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_sql::sqlparser::ast::{Expr, Spanned};

use crate::diagnostic::Code;
use crate::schema::{Schema, canonical, type_name};

pub use evaluate::{Evaluated, Expression, RowErrors};
pub(crate) use evaluate::{evaluate_all, first_of_rows};
pub(crate) use functions::{Aggregate, AggregateFunction};
pub use functions::{FunctionError, FunctionKind, Functions};
pub use order::{OrderBy, compile_order};
pub(crate) use plan::{Columns, clean};
pub(crate) use resolve::CallSyntax;

use resolve::{Place, Resolver, column_index};
use source::Source;

/// The columns that an expression may name. Their numbers run through all inputs.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Qualifier, name.
    names: Vec<(String, String)>,
    columns: Columns,
}

impl Scope {
    /// The columns of one or several inputs, each as `name` and as `qualifier.name`, and the functions that may be called.
    pub fn new(functions: &Arc<Functions>, inputs: &[(&str, &Schema)]) -> Self {
        let mut names = Vec::new();
        let mut columns = Vec::new();
        for (number, (qualifier, schema)) in inputs.iter().enumerate() {
            for field in schema.columns.fields() {
                // A canonical text does not change when an input is renamed.
                let canonical = if inputs.len() == 1 {
                    field.name().clone()
                } else {
                    format!("{number}.{}", field.name())
                };
                names.push(((*qualifier).to_owned(), field.name().clone()));
                columns.push((canonical, field.data_type().clone()));
            }
        }
        Scope { names, columns: Columns::new(functions.clone(), columns) }
    }

    /// What may be called.
    pub(crate) fn functions(&self) -> &Arc<Functions> {
        self.columns.functions()
    }

    fn qualifiers(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.names.iter().map(|(qualifier, _)| qualifier.as_str()).filter(move |qualifier| {
            let new = last != Some(*qualifier);
            last = Some(*qualifier);
            new
        })
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, usize)> {
        let all = self.names.iter().enumerate();
        all.filter(move |(_, (_, known))| known == name)
            .map(|(index, (qualifier, _))| (qualifier.as_str(), index))
    }

    fn qualified(&self, qualifier: &str, name: &str) -> Option<usize> {
        self.named(name).find(|(of, _)| *of == qualifier).map(|(_, index)| index)
    }

    fn names_of<'a>(&'a self, qualifier: &'a str) -> impl Iterator<Item = &'a str> {
        self.names.iter().filter(move |(of, _)| of == qualifier).map(|(_, name)| name.as_str())
    }

    fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|(_, name)| name.as_str())
    }
}

/// What a column is called after resolution.
fn column_name(index: usize) -> String {
    format!("#{index}")
}

/// A mistake in an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// Stable code.
    pub code: Code,
    /// Bytes of the expression's text.
    pub span: Range<usize>,
    /// What was found: lower case, no full stop.
    pub message: String,
    /// The likely fix.
    pub help: Option<String>,
}

/// Compiles an expression that gives a value per row.
pub fn compile(sql: &str, scope: &Scope) -> Result<Expression, Vec<SqlError>> {
    let source = errors::tokenize(sql).map_err(|error| vec![error])?;
    let mut syntax = errors::parse(&source).map_err(|error| vec![error])?;
    let mut resolver = Resolver::new(&source, scope);
    resolver.resolve(&mut syntax, Place::Row);
    let found = resolver.errors;
    finish(&source, &syntax, &scope.columns, found)
}

/// Compiles a condition.
pub fn compile_condition(sql: &str, scope: &Scope) -> Result<Expression, Vec<SqlError>> {
    let expression = compile(sql, scope)?;
    let whole = errors::tokenize(sql).map_or(0..sql.len(), |source| source.whole());
    boolean(expression, sql, whole).map_err(|error| vec![error])
}

/// The expression, if it can serve as a condition.
fn boolean(expression: Expression, text: &str, span: Range<usize>) -> Result<Expression, SqlError> {
    let data_type = expression.data_type();
    if *data_type == DataType::Boolean {
        return Ok(expression);
    }
    let help = match data_type {
        DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(_, _) => Some(format!("compare it, as in `{text} > 0`")),
        DataType::Utf8 => Some(format!("compare it, as in `{text} = '…'`")),
        _ => None,
    };
    let message =
        format!("a condition has to be a bool, this is {}", errors::with_article(&type_name(data_type)));
    Err(SqlError { code: Code::SqlNotBoolean, span, message, help })
}

/// From resolved syntax to an expression; `found` are the mistakes found so far.
fn finish(
    source: &Source<'_>,
    syntax: &Expr,
    columns: &Columns,
    found: Vec<SqlError>,
) -> Result<Expression, Vec<SqlError>> {
    let mut found = found;
    let text = || source.slice(&source.range(syntax)).to_owned();
    if found.is_empty()
        && let Ok(planned) = plan::plan(syntax, columns)
    {
        let Some(data_type) = canonical(&planned.data_type) else {
            return Err(vec![errors::no_column(source, syntax, &planned.data_type)]);
        };
        return Ok(Expression::new(text(), syntax, columns, planned, data_type));
    }
    errors::locate(source, syntax, columns, &mut found);
    if found.is_empty() {
        // Each part plans by itself and the whole does not.
        found.push(errors::unexplained(source, syntax));
    }
    found.sort_by_key(|error| (error.span.start, error.span.end));
    found.dedup();
    Err(found)
}

/// An aggregate column: what remains of it when its calls are cut out, and the calls.
#[derive(Debug)]
pub(crate) struct AggregateSyntax<'a> {
    source: Source<'a>,
    outer: Expr,
    /// In the order of their numbers in the remaining expression.
    pub calls: Vec<CallSyntax>,
}

impl<'a> AggregateSyntax<'a> {
    /// Reads an expression over groups of rows.
    pub fn parse(sql: &'a str, scope: &Scope) -> Result<Self, Vec<SqlError>> {
        let source = errors::tokenize(sql).map_err(|error| vec![error])?;
        let mut outer = errors::parse(&source).map_err(|error| vec![error])?;
        let mut resolver = Resolver::new(&source, scope);
        resolver.resolve(&mut outer, Place::Group);
        let (mut found, calls) = (resolver.errors, resolver.calls);
        if found.is_empty() && calls.is_empty() {
            found.push(SqlError {
                code: Code::SqlAggregateNeeded,
                span: source.whole(),
                message: format!(
                    "`{}` is the same for every group: an aggregate is needed",
                    source.slice(&source.whole())
                ),
                help: Some("aggregates are `count(*)`, `sum(x)`, `avg(x)`, …".to_owned()),
            });
        }
        // Where a call's argument is wrong as well, one run says so too.
        for call in &calls {
            for part in call.arguments.iter().chain(&call.filter) {
                if !found.is_empty() {
                    errors::locate(&source, part, &scope.columns, &mut found);
                }
            }
        }
        if found.is_empty() { Ok(AggregateSyntax { source, outer, calls }) } else { Err(found) }
    }

    /// The text of a call.
    pub fn text(&self, call: &CallSyntax) -> &'a str {
        self.source.slice(&call.range)
    }

    /// Compiles an argument of a call.
    pub fn argument(&self, argument: &Expr, scope: &Scope) -> Result<Expression, Vec<SqlError>> {
        finish(&self.source, argument, &scope.columns, Vec::new())
    }

    /// Compiles the filter of a call.
    pub fn filter(&self, filter: &Expr, scope: &Scope) -> Result<Expression, Vec<SqlError>> {
        let expression = finish(&self.source, filter, &scope.columns, Vec::new())?;
        let range = self.source.range(filter);
        boolean(expression, self.source.slice(&range), range).map_err(|error| vec![error])
    }

    /// Gives the calls their final numbers.
    pub fn renumber(&mut self, numbers: &[usize]) {
        fn walk(expr: &mut Expr, numbers: &[usize]) {
            if let Expr::Identifier(_) = expr
                && let Some(index) = column_index(expr).and_then(|index| numbers.get(index))
            {
                *expr = resolve::column_identifier(*index, expr.span());
            }
            syntax::children_mut(expr).into_iter().for_each(|child| walk(child, numbers));
        }
        walk(&mut self.outer, numbers);
    }

    /// The call that the whole expression is, if it is nothing else.
    pub fn only_call(&self) -> Option<usize> {
        column_index(&self.outer)
    }

    /// Compiles what remains, over the results of the calls.
    pub fn outer(&self, results: &Columns) -> Result<Expression, Vec<SqlError>> {
        finish(&self.source, &self.outer, results, Vec::new())
    }
}
