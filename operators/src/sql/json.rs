//! `json_value`, `json_query` and `json_exists` of SQL:2016: what lies at a path of a JSON text.
//!
//! A path is `$`, then `.name`, `."any name"`, `['any name']` for the fields of objects and `[0]` for the items of arrays. What is
//! not there is null (`json_exists`: false), and so is a text that is not JSON: the standard's `NULL ON ERROR`.

use std::str::Chars;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use serde_json::Value as Json;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wanted {
    /// A text, a number or a boolean, as text.
    Value,
    /// Anything, as JSON.
    Query,
    /// Whether there is anything.
    Exists,
}

/// The functions of this module.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let signature = Signature::exact(vec![DataType::Utf8; 2], Volatility::Immutable);
    [Wanted::Value, Wanted::Query, Wanted::Exists]
        .map(|wanted| {
            Arc::new(ScalarUDF::new_from_impl(JsonFunction { wanted, signature: signature.clone() }))
        })
        .to_vec()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    wanted: Wanted,
    signature: Signature,
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        match self.wanted {
            Wanted::Value => "json_value",
            Wanted::Query => "json_query",
            Wanted::Exists => "json_exists",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.wanted {
            Wanted::Value | Wanted::Query => DataType::Utf8,
            Wanted::Exists => DataType::Boolean,
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let [texts, paths] = arguments.args.as_slice() else {
            return exec_err!("{} takes a text and a path", self.name());
        };
        let texts = texts.to_array(rows)?;
        let texts = texts.as_string::<i32>();
        // Mostly it is the same for all rows.
        let constant = match paths {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(path))) => Some(steps(path)?),
            _ => None,
        };
        let paths = paths.to_array(rows)?;
        let paths = paths.as_string::<i32>();
        let mut found = Vec::with_capacity(rows);
        for (text, path) in texts.iter().zip(paths) {
            let (Some(text), Some(path)) = (text, path) else {
                found.push(None);
                continue;
            };
            let parsed = if constant.is_none() { Some(steps(path)?) } else { None };
            let steps = constant.as_ref().or(parsed.as_ref());
            let json = serde_json::from_str::<Json>(text).ok();
            found.push(Some(json.zip(steps).and_then(|(json, steps)| at(json, steps))));
        }
        let array: ArrayRef = match self.wanted {
            Wanted::Exists => {
                Arc::new(found.into_iter().map(|row| Some(row?.is_some())).collect::<BooleanArray>())
            }
            Wanted::Query => {
                Arc::new(found.into_iter().map(|row| Some(row??.to_string())).collect::<StringArray>())
            }
            Wanted::Value => Arc::new(
                found
                    .into_iter()
                    .map(|row| match row?? {
                        Json::String(text) => Some(text),
                        json @ (Json::Number(_) | Json::Bool(_)) => Some(json.to_string()),
                        Json::Null | Json::Array(_) | Json::Object(_) => None,
                    })
                    .collect::<StringArray>(),
            ),
        };
        Ok(ColumnarValue::Array(array))
    }
}

/// A step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

fn steps(path: &str) -> Result<Vec<Step>> {
    match parse(path) {
        Ok(steps) => Ok(steps),
        Err(reason) => exec_err!("{reason}"),
    }
}

/// What lies at a path.
fn at(json: Json, steps: &[Step]) -> Option<Json> {
    steps.iter().try_fold(json, |json, step| match (json, step) {
        (Json::Object(mut fields), Step::Field(name)) => fields.remove(name),
        (Json::Array(mut items), Step::Item(index)) => {
            (*index < items.len()).then(|| items.swap_remove(*index))
        }
        _ => None,
    })
}

fn parse(path: &str) -> std::result::Result<Vec<Step>, String> {
    let wrong = |reason: &str| format!("`{path}` is no JSON path: {reason}, as in `$.items[0].name`");
    let mut rest = path.trim().strip_prefix('$').ok_or_else(|| wrong("it begins with `$`"))?.chars();
    let mut steps = Vec::new();
    while let Some(next) = rest.next() {
        let step = match next {
            '.' => match rest.as_str().chars().next() {
                Some('"') => {
                    rest.next();
                    Step::Field(quoted(&mut rest, '"').ok_or_else(|| wrong("a quote is not closed"))?)
                }
                _ => {
                    let text = rest.as_str();
                    let end = text.find(['.', '[', ' ']).unwrap_or(text.len());
                    let (name, after) = text.split_at(end);
                    rest = after.chars();
                    match name {
                        "" | "*" => return Err(wrong("a dot is followed by a name")),
                        name => Step::Field(name.to_owned()),
                    }
                }
            },
            '[' => {
                let step = match rest.as_str().chars().next() {
                    Some(quote @ ('\'' | '"')) => {
                        rest.next();
                        Step::Field(quoted(&mut rest, quote).ok_or_else(|| wrong("a quote is not closed"))?)
                    }
                    _ => {
                        let text = rest.as_str();
                        let end = text.find(']').unwrap_or(text.len());
                        let (number, after) = text.split_at(end);
                        rest = after.chars();
                        let number = number.parse();
                        Step::Item(
                            number
                                .map_err(|_| wrong("in brackets stands a number from 0 or a quoted name"))?,
                        )
                    }
                };
                if rest.next() != Some(']') {
                    return Err(wrong("a bracket is not closed"));
                }
                step
            }
            _ => return Err(wrong("a step begins with `.` or `[`")),
        };
        steps.push(step);
    }
    Ok(steps)
}

/// Reads up to the closing quote.
fn quoted(rest: &mut Chars<'_>, quote: char) -> Option<String> {
    let (name, after) = rest.as_str().split_once(quote)?;
    *rest = after.chars();
    Some(name.to_owned())
}
