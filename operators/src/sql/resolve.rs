//! From written names to columns: finds every column and function of an expression, and refuses what is not allowed.
//!
//! Afterwards a column is the identifier `#` and its number, a struct's field is `['field']`, function names are lower case,
//! and aggregate calls are cut out: `sum(a) / count(*)` becomes `#0 / #1` and two calls.

use std::ops::Range;

use arrow::datatypes::DataType;
use datafusion_sql::sqlparser::ast::{
    AccessExpr, DuplicateTreatment, Expr, Function as Call, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, NullTreatment, ObjectName,
    ObjectNamePart, Spanned, Subscript, UnaryOperator, Value, ValueWithSpan,
};

use super::errors::with_article;
use super::functions::{Aggregate, Function};
use super::source::Source;
use super::syntax::{children_mut, refusal};
use super::{Scope, SqlError, column_name};
use crate::diagnostic::{Code, did_you_mean, listed};
use crate::schema::type_name;

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It sees one row.
    Row,
    /// It sees the results of aggregates over many rows.
    Group,
    /// Inside of an aggregate.
    Argument,
}

/// An aggregate call as written, its parts resolved.
#[derive(Debug)]
pub(crate) struct CallSyntax {
    pub aggregate: Aggregate,
    pub distinct: bool,
    pub ignore_nulls: bool,
    /// `count(*)`.
    pub star: bool,
    pub arguments: Vec<Expr>,
    pub filter: Option<Expr>,
    pub range: Range<usize>,
}

#[derive(Debug)]
pub(super) struct Resolver<'a, 's> {
    pub source: &'a Source<'s>,
    pub scope: &'a Scope,
    pub errors: Vec<SqlError>,
    pub calls: Vec<CallSyntax>,
}

impl<'a, 's> Resolver<'a, 's> {
    pub fn new(source: &'a Source<'s>, scope: &'a Scope) -> Self {
        Resolver { source, scope, errors: Vec::new(), calls: Vec::new() }
    }

    fn error(&mut self, code: Code, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.errors.push(SqlError { code, span, message: message.into(), help });
    }

    pub fn resolve(&mut self, expr: &mut Expr, place: Place) {
        match expr {
            Expr::Identifier(ident) => {
                let idents = vec![ident.clone()];
                self.column(expr, &idents, Vec::new(), place);
            }
            Expr::CompoundIdentifier(idents) => {
                let idents = std::mem::take(idents);
                self.column(expr, &idents, Vec::new(), place);
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                let mut idents = match root.as_ref() {
                    Expr::Identifier(ident) => vec![ident.clone()],
                    Expr::CompoundIdentifier(idents) => idents.clone(),
                    _ => Vec::new(),
                };
                let mut chain = std::mem::take(access_chain);
                if idents.is_empty() {
                    self.resolve(root, place);
                    chain.iter_mut().for_each(|access| self.access(access, place));
                    *access_chain = chain;
                } else {
                    let named = chain
                        .iter()
                        .take_while(|access| matches!(access, AccessExpr::Dot(Expr::Identifier(_))));
                    let named = named.count();
                    idents.extend(chain.drain(..named).filter_map(|access| match access {
                        AccessExpr::Dot(Expr::Identifier(ident)) => Some(ident),
                        _ => None,
                    }));
                    chain.iter_mut().for_each(|access| self.access(access, place));
                    self.column(expr, &idents, chain, place);
                }
            }
            Expr::Function(_) => self.function(expr, place),
            Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => {
                let number = number.clone();
                self.number(&number, false, self.source.range(expr));
            }
            // The smallest int64 has no positive counterpart.
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } => match inner.as_ref() {
                Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => {
                    let number = number.clone();
                    self.number(&number, true, self.source.range(expr));
                }
                _ => self.resolve(inner, place),
            },
            Expr::Substring { .. } => {
                children_mut(expr).into_iter().for_each(|child| self.resolve(child, place));
                self.substring(expr);
            }
            _ => match refusal(expr) {
                Some(reason) => {
                    let span = self.source.range(expr);
                    self.error(Code::SqlNotAllowed, span, reason, None);
                }
                None => children_mut(expr).into_iter().for_each(|child| self.resolve(child, place)),
            },
        }
    }

    /// Refuses a number that no column can hold.
    fn number(&mut self, number: &str, negative: bool, span: Range<usize>) {
        let is_integer = number.bytes().all(|byte| byte.is_ascii_digit());
        let signed = if negative { format!("-{number}") } else { number.to_owned() };
        let (fits, data_type, help) = match is_integer {
            true => {
                let help = format!(
                    "write `{signed}.0` for a float64, or a decimal: `cast('{signed}' as decimal(38,0))`"
                );
                (signed.parse::<i64>().is_ok(), "an int64", help)
            }
            false => (number.parse::<f64>().is_ok_and(f64::is_finite), "a float64", String::new()),
        };
        if !fits {
            let message = format!("`{signed}` is larger than {data_type} can be");
            self.error(Code::SqlNumber, span, message, is_integer.then_some(help));
        }
    }

    /// `.field` or `[index]` behind something that is no column.
    fn access(&mut self, access: &mut AccessExpr, place: Place) {
        match access {
            AccessExpr::Dot(Expr::Identifier(ident)) => *access = field_access(ident),
            AccessExpr::Dot(inner) => self.resolve(inner, place),
            AccessExpr::Subscript(Subscript::Index { index }) => {
                if !matches!(index, Expr::Value(_)) {
                    self.resolve(index, place);
                }
            }
            AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                for bound in [lower_bound, upper_bound, stride].into_iter().flatten() {
                    self.resolve(bound, place);
                }
            }
        }
    }

    /// Replaces the written name `a.b.c` by its column and what is accessed of it.
    fn column(&mut self, expr: &mut Expr, idents: &[Ident], chain: Vec<AccessExpr>, place: Place) {
        let bytes = |ident: Option<&Ident>| ident.and_then(|ident| self.source.bytes(ident.span));
        let (first, last) = (bytes(idents.first()), bytes(idents.last()));
        let whole = match (first.clone(), last) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => self.source.whole(),
        };
        let (index, used) = match self.find(idents) {
            Ok(found) => found,
            Err((at, message, help)) => {
                let span = bytes(idents.get(at)).unwrap_or(whole);
                return self.error(Code::SqlUnknownColumn, span, message, help);
            }
        };
        let mut accesses: Vec<AccessExpr> = idents.iter().skip(used).map(field_access).collect();
        accesses.extend(chain);
        if let Err(UnknownField { span, message, help }) = self.fields(index, &accesses) {
            return self.error(Code::SqlUnknownColumn, span.unwrap_or(whole), message, help);
        }
        if place == Place::Group {
            let written = self.source.slice(&whole);
            let message =
                format!("`{written}` stands outside of an aggregate, which has many rows to choose from");
            let help = format!("put it into one, as in `last_value({written})` or `sum({written})`");
            return self.error(Code::SqlColumnOutsideAggregate, whole, message, Some(help));
        }
        let span = idents.iter().map(|ident| ident.span).reduce(|left, right| left.union(&right));
        let root = column_identifier(index, span.unwrap_or_else(|| expr.span()));
        *expr = if accesses.is_empty() {
            root
        } else {
            Expr::CompoundFieldAccess { root: Box::new(root), access_chain: accesses }
        };
    }

    /// The column that a name stands for, and how many of its parts name the column. An error comes with the part concerned.
    fn find(&self, idents: &[Ident]) -> Result<(usize, usize), (usize, String, Option<String>)> {
        let name = |at: usize| idents.get(at).map_or("", |ident| ident.value.as_str());
        let qualifier = self.scope.qualifiers().find(|qualifier| *qualifier == name(0));
        if let (Some(qualifier), Some(_)) = (qualifier, idents.get(1)) {
            if let Some(index) = self.scope.qualified(qualifier, name(1)) {
                return Ok((index, 2));
            }
            if self.scope.named(name(0)).next().is_none() {
                let names: Vec<&str> = self.scope.names_of(qualifier).collect();
                let help = did_you_mean(name(1), names.iter().copied())
                    .unwrap_or_else(|| format!("its columns are {}", listed(names.iter().copied())));
                return Err((1, format!("`{qualifier}` has no column `{}`", name(1)), Some(help)));
            }
        }
        let mut found = self.scope.named(name(0));
        match (found.next(), found.next()) {
            (Some((_, index)), None) => Ok((index, 1)),
            (Some((first, _)), Some((second, _))) => {
                let message = format!("`{0}` is a column of both `{first}` and `{second}`", name(0));
                Err((0, message, Some(format!("say `{first}.{0}` or `{second}.{0}`", name(0)))))
            }
            (None, _) => {
                let quoted = idents.first().is_some_and(|ident| ident.quote_style == Some('"'));
                let names: Vec<&str> = self.scope.all_names().collect();
                let help = quoted
                    .then(|| format!("a string stands in single quotes: `'{}'`", name(0)))
                    .or_else(|| did_you_mean(name(0), names.iter().copied().chain(self.scope.qualifiers())))
                    .or_else(|| {
                        (!names.is_empty()).then(|| format!("columns are {}", listed(names.iter().copied())))
                    });
                Err((0, format!("there is no column `{}`", name(0)), help))
            }
        }
    }

    /// Whether the fields that are accessed of a column exist.
    fn fields(&self, index: usize, accesses: &[AccessExpr]) -> Result<(), UnknownField> {
        let mut data_type = self.scope.columns.data_type(index);
        for access in accesses {
            let AccessExpr::Subscript(Subscript::Index { index: key }) = access else { return Ok(()) };
            data_type = match (data_type, field_name(key)) {
                (Some(DataType::Struct(fields)), Some(name)) => match fields.find(name) {
                    Some((_, field)) => Some(field.data_type()),
                    None => {
                        let names = || fields.iter().map(|field| field.name().as_str());
                        let help = did_you_mean(name, names())
                            .unwrap_or_else(|| format!("its fields are {}", listed(names())));
                        let span = self.source.bytes(key.span());
                        let message = format!("there is no field `{name}`");
                        return Err(UnknownField { span, message, help: Some(help) });
                    }
                },
                (Some(other), Some(name)) if !matches!(other, DataType::Struct(_)) => {
                    let message =
                        format!("there is no field `{name}` in {}", with_article(&type_name(other)));
                    return Err(UnknownField { span: self.source.bytes(key.span()), message, help: None });
                }
                (Some(DataType::List(item)), None) => Some(item.data_type()),
                _ => return Ok(()),
            };
        }
        Ok(())
    }

    fn function(&mut self, expr: &mut Expr, place: Place) {
        let span = self.source.range(expr);
        let Expr::Function(call) = expr else { return };
        let name_span = self.source.bytes(call.name.span()).unwrap_or(span.clone());
        let name = match call.name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => ident.value.to_lowercase(),
            _ => call.name.to_string(),
        };
        if call.over.is_some() {
            let message = "a window function is not allowed: an expression sees one row";
            let help = "trailing windows are made by a `features` step";
            return self.error(Code::SqlNotAllowed, span, message, Some(help.to_owned()));
        }
        match self.scope.functions().lookup(&name) {
            Function::Scalar(_) => {
                if let Some(reason) = scalar_refusal(call) {
                    return self.error(Code::SqlNotAllowed, span, reason, None);
                }
                let ident = Ident { value: name, quote_style: None, span: call.name.span() };
                call.name = ObjectName(vec![ObjectNamePart::Identifier(ident)]);
                children_mut(expr).into_iter().for_each(|child| self.resolve(child, place));
            }
            Function::Mutable => {
                let message = format!("`{name}` gives another result each time it is asked");
                let help = "a result has to depend on the row alone, so that a restart changes nothing; for times use a \
                            column with the event time";
                self.error(Code::SqlNotImmutable, span, message, Some(help.to_owned()));
            }
            Function::Aggregate(aggregate) => match place {
                Place::Row => {
                    let message =
                        format!("the aggregate `{name}` is not allowed: an expression sees one row");
                    let help = "aggregates belong into an `aggregate` or `features` step";
                    self.error(Code::SqlAggregateNotAllowed, span, message, Some(help.to_owned()));
                }
                Place::Argument => {
                    let message = format!("the aggregate `{name}` stands inside of another aggregate");
                    let help = "compute the inner one in a step before";
                    self.error(Code::SqlNestedAggregate, span, message, Some(help.to_owned()));
                }
                Place::Group => self.aggregate(expr, aggregate, span),
            },
            Function::UnofferedAggregate => {
                let help = format!("aggregates are {}", listed(self.scope.functions().aggregate_names()));
                let message = format!("the aggregate `{name}` is not offered");
                self.error(Code::SqlUnknownAggregate, name_span, message, Some(help));
            }
            Function::Unknown => {
                let known = self.scope.functions().names();
                let help = match name.as_str() {
                    "if" | "iif" => Some("write `case when … then … else … end`".to_owned()),
                    "unnest" => Some("an `explode` step makes rows of a list".to_owned()),
                    _ => did_you_mean(&name, known.iter().map(|(name, _)| name.as_str())),
                };
                self.error(
                    Code::SqlUnknownFunction,
                    name_span,
                    format!("there is no function `{name}`"),
                    help,
                );
                // It may have been meant as an aggregate.
                let inside = if place == Place::Group { Place::Argument } else { place };
                children_mut(expr).into_iter().for_each(|child| self.resolve(child, inside));
            }
        }
    }

    /// `substring(s from 2 for 3)` is `substr(s, 2, 3)`.
    fn substring(&mut self, expr: &mut Expr) {
        let range = self.source.range(expr);
        let name = Ident {
            value: "substr".to_owned(),
            quote_style: None,
            span: self.source.span(&self.source.token_at(range.start)),
        };
        let Expr::Substring { expr: text, substring_from, substring_for, .. } = expr else { return };
        let from = substring_from
            .take()
            .map_or_else(|| Expr::value(Value::Number("1".to_owned(), false)), |from| *from);
        let text = std::mem::replace(text.as_mut(), Expr::value(Value::Null));
        let arguments = [Some(text), Some(from), substring_for.take().map(|count| *count)];
        let arguments =
            arguments.into_iter().flatten().map(|part| FunctionArg::Unnamed(FunctionArgExpr::Expr(part)));
        *expr = Expr::Function(Call {
            name: ObjectName(vec![ObjectNamePart::Identifier(name)]),
            uses_odbc_syntax: false,
            parameters: FunctionArguments::None,
            args: FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args: arguments.collect(),
                clauses: Vec::new(),
            }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group: Vec::new(),
        });
    }

    /// Cuts an aggregate call out.
    fn aggregate(&mut self, expr: &mut Expr, aggregate: Aggregate, range: Range<usize>) {
        let Expr::Function(call) = expr else { return };
        let mut syntax = CallSyntax {
            aggregate,
            distinct: false,
            ignore_nulls: call.null_treatment == Some(NullTreatment::IgnoreNulls),
            star: false,
            arguments: Vec::new(),
            filter: call.filter.take().map(|filter| *filter),
            range: range.clone(),
        };
        let mut refused = None;
        if !call.within_group.is_empty() || !matches!(call.parameters, FunctionArguments::None) {
            refused = Some("this form of an aggregate is not offered");
        }
        match std::mem::replace(&mut call.args, FunctionArguments::None) {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(_) => refused = Some("a subquery is not allowed"),
            FunctionArguments::List(list) => {
                syntax.distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
                for clause in list.clauses {
                    match clause {
                        FunctionArgumentClause::IgnoreOrRespectNulls(treatment) => {
                            syntax.ignore_nulls = treatment == NullTreatment::IgnoreNulls;
                        }
                        _ => {
                            refused = Some(
                                "rows are aggregated in the order in which they come; no other is offered",
                            )
                        }
                    }
                }
                for argument in list.args {
                    match argument {
                        FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => syntax.star = true,
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => {
                            syntax.arguments.push(argument)
                        }
                        _ => refused = Some("an aggregate takes plain arguments"),
                    }
                }
            }
        }
        if let Some(reason) = refused {
            return self.error(Code::SqlNotAllowed, range, reason, None);
        }
        for part in syntax.arguments.iter_mut().chain(&mut syntax.filter) {
            self.resolve(part, Place::Argument);
        }
        *expr = column_identifier(self.calls.len(), self.source.span(&range));
        self.calls.push(syntax);
    }
}

/// A field that its struct does not have.
struct UnknownField {
    /// Where it is named.
    span: Option<Range<usize>>,
    message: String,
    help: Option<String>,
}

/// The identifier that stands for column number `index`.
pub(super) fn column_identifier(index: usize, span: datafusion_sql::sqlparser::tokenizer::Span) -> Expr {
    Expr::Identifier(Ident { value: column_name(index), quote_style: Some('"'), span })
}

/// The number of the column that an identifier stands for.
pub(super) fn column_index(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Identifier(ident) => ident.value.strip_prefix('#')?.parse().ok(),
        Expr::Nested(inner) => column_index(inner),
        _ => None,
    }
}

fn field_access(ident: &Ident) -> AccessExpr {
    let value = ValueWithSpan { value: Value::SingleQuotedString(ident.value.clone()), span: ident.span };
    AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) })
}

fn field_name(key: &Expr) -> Option<&str> {
    match key {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(name), .. }) => Some(name),
        _ => None,
    }
}

fn scalar_refusal(call: &Call) -> Option<&'static str> {
    if call.filter.is_some() || call.null_treatment.is_some() || !call.within_group.is_empty() {
        return Some("this clause belongs to aggregates");
    }
    if !matches!(call.parameters, FunctionArguments::None) {
        return Some("a function takes one list of arguments");
    }
    match &call.args {
        FunctionArguments::None => None,
        FunctionArguments::Subquery(_) => Some("a subquery is not allowed: an expression sees one row"),
        FunctionArguments::List(list) => {
            let plain =
                |argument: &FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
            let refused = list.duplicate_treatment.is_some()
                || !list.clauses.is_empty()
                || !list.args.iter().all(plain);
            refused.then_some("a function takes plain arguments only")
        }
    }
}
