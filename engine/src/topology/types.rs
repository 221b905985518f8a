//! Types of columns, and `[types]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use millstream_operators::config::{Fields, Text};
use millstream_operators::diagnostic::{Code, Diagnostic, Span, did_you_mean};
use millstream_operators::schema::{TIMESTAMP, type_name};
use toml::Spanned;
use toml::de::DeValue;

use crate::codec::layout::FieldLayout;

/// Types that need no declaration and have no argument.
const SIMPLE: [(&str, DataType); 9] = [
    ("bool", DataType::Boolean),
    ("int32", DataType::Int32),
    ("int64", DataType::Int64),
    ("float32", DataType::Float32),
    ("float64", DataType::Float64),
    ("string", DataType::Utf8),
    ("bytes", DataType::Binary),
    ("date", DataType::Date32),
    ("timestamp", TIMESTAMP),
];

/// What other languages call our types.
const FOREIGN: [(&str, &str); 19] = [
    ("int", "int64"),
    ("integer", "int64"),
    ("long", "int64"),
    ("bigint", "int64"),
    ("short", "int32"),
    ("float", "float64"),
    ("double", "float64"),
    ("real", "float32"),
    ("number", "float64"),
    ("boolean", "bool"),
    ("text", "string"),
    ("str", "string"),
    ("varchar", "string"),
    ("binary", "bytes"),
    ("blob", "bytes"),
    ("datetime", "timestamp"),
    ("time", "timestamp"),
    ("decimal", "decimal(18,2)"),
    ("list", "list<string>"),
];

/// How deep lists, structs and named types may lie in each other.
const DEEPEST: usize = 32;

/// How many fields a type may have in all.
const LARGEST: usize = 10_000;

/// A column as it is declared.
#[derive(Clone)]
pub(super) struct Column {
    /// Name, type and field of the record.
    pub layout: FieldLayout,
    /// The place of the name.
    pub span: Span,
}

/// A type: of a struct with its fields, of a list with its item.
#[derive(Clone)]
struct Shape {
    data_type: DataType,
    children: Vec<FieldLayout>,
    size: usize,
}

impl Shape {
    fn simple(data_type: DataType) -> Self {
        Shape { data_type, children: Vec::new(), size: 1 }
    }

    fn list(item: Shape) -> Self {
        let data_type = DataType::List(Arc::new(Field::new("item", item.data_type.clone(), true)));
        let size = item.size + 1;
        let layout = layout("item", "item", item);
        Shape { data_type, children: vec![layout], size }
    }
}

fn layout(name: &str, field: &str, shape: Shape) -> FieldLayout {
    FieldLayout {
        name: name.to_owned(),
        field: field.to_owned(),
        data_type: shape.data_type,
        children: shape.children,
    }
}

/// The named types of a file.
pub(super) struct Types<'a> {
    said: BTreeMap<String, (Span, Fields<'a>)>,
    known: BTreeMap<String, Option<(Vec<Column>, usize)>>,
    /// Named types that are being read, outermost first.
    open: Vec<String>,
    /// How deep the type being read lies.
    depth: usize,
}

impl<'a> Types<'a> {
    /// Reads `[types]`.
    pub fn read(declared: Vec<(Text, Fields<'a>)>) -> Self {
        let mut said = BTreeMap::new();
        for (name, fields) in declared {
            if SIMPLE.iter().any(|(simple, _)| *simple == name.value) || matches!(&*name, "list" | "decimal")
            {
                fields.diagnostics().push(
                    Diagnostic::error(
                        Code::InvalidName,
                        name.span.clone(),
                        format!("`{}` is the name of a built-in type", name.value),
                    )
                    .help("choose another name"),
                );
            }
            said.insert(name.value.clone(), (name.span.clone(), fields));
        }
        let mut types = Types { said, known: BTreeMap::new(), open: Vec::new(), depth: 0 };
        let names: Vec<(String, Fields<'a>)> =
            types.said.iter().map(|(name, (_, fields))| (name.clone(), fields.clone())).collect();
        for (name, fields) in names {
            types.named(&name, &fields.header, &fields);
        }
        types
    }

    /// The columns that a key or value declares: a table, or the name of a type.
    pub fn columns_at(&mut self, fields: &Fields<'a>, key: &str) -> Option<Vec<Column>> {
        let value = fields.get(key)?;
        if let Some(name) = fields.as_text(value) {
            if !self.said.contains_key(&name.value) {
                let names = self.said.keys().map(String::as_str);
                fields.diagnostics().push(
                    Diagnostic::error(
                        Code::UnknownType,
                        name.span.clone(),
                        format!("`{}` is not a struct of `[types]`", name.value),
                    )
                    .help(did_you_mean(&name, names).unwrap_or_else(|| {
                        format!(
                            "write the columns: `{key} = {{ column = \"string\" }}`, or declare `[types.{}]`",
                            name.value
                        )
                    })),
                );
                return None;
            }
            return self.named(&name, &name.span, fields).map(|(columns, _)| columns);
        }
        let table = fields.table(key, format!("`{key}` of {}", fields.what))?;
        self.columns(&table).map(|(columns, _)| columns)
    }

    /// The columns of a table of names with types, and how many fields they have in all.
    fn columns(&mut self, table: &Fields<'a>) -> Option<(Vec<Column>, usize)> {
        let entries = table.entries();
        let count = entries.len();
        let mut columns: Vec<Column> = Vec::with_capacity(count);
        let mut size = 0;
        for (name, value) in entries {
            if name.is_empty() {
                let message = "a column has an empty name";
                table.diagnostics().push(
                    Diagnostic::error(Code::InvalidName, name.span.clone(), message).help("give it a name"),
                );
                continue;
            }
            let Some((shape, field)) = self.column(table, &name, value) else { continue };
            size += shape.size;
            let field = field.map_or(name.value.clone(), |field| field.value);
            if let Some(other) = columns.iter().find(|other| other.layout.field == field) {
                table.diagnostics().push(
                    Diagnostic::error(
                        Code::ColumnClash,
                        name.span.clone(),
                        format!(
                            "`{}` reads the field `{field}`, which `{}` reads too",
                            name.value, other.layout.name
                        ),
                    )
                    .also(other.span.clone(), "the other column")
                    .help("give one of them another `field`"),
                );
            }
            columns.push(Column { layout: layout(&name, &field, shape), span: name.span });
        }
        if size > LARGEST {
            let message = format!("{} has more than {LARGEST} fields", table.what);
            table.diagnostics().push(Diagnostic::error(Code::OutOfRange, table.header.clone(), message));
            return None;
        }
        (columns.len() == count).then_some((columns, size))
    }

    /// A type, or `{ type = …, field = … }`.
    fn column(
        &mut self,
        fields: &Fields<'a>,
        name: &Text,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<(Shape, Option<Text>)> {
        let what = format!("column `{}`", name.value);
        let described = fields.as_table(name.span.clone(), value, what).filter(|table| {
            table.has("type")
                && table.entries().iter().all(|(key, _)| matches!(&*key.value, "type" | "field"))
        });
        match described {
            Some(table) => {
                let field = table.text("field");
                let shape = self.shape(&table, "type", table.get("type")?)?;
                (field.is_some() || !table.has("field")).then_some((shape, field))
            }
            None => Some((self.shape(fields, name, value)?, None)),
        }
    }

    /// A type: a string, or a table of fields.
    fn shape(&mut self, fields: &Fields<'a>, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Shape> {
        if let Some(text) = fields.as_text(value) {
            return self.parse(fields, &text, 0..text.len());
        }
        let Some(table) = fields.as_table(value.span(), value, format!("the struct `{key}`")) else {
            fields.wrong_type(key, value, "a type, such as \"string\", or a table of fields");
            return None;
        };
        let columns = self.deeper(fields, value.span(), |types| types.columns(&table))?;
        struct_of(&table, columns)
    }

    /// Counts the depth while `read` runs.
    fn deeper<T>(
        &mut self,
        fields: &Fields<'a>,
        span: Span,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        if self.depth == DEEPEST {
            let message = format!("types lie more than {DEEPEST} deep in each other");
            fields.diagnostics().push(Diagnostic::error(Code::OutOfRange, span, message));
            return None;
        }
        self.depth += 1;
        let answer = read(self);
        self.depth -= 1;
        answer
    }

    /// The type at the bytes `range` of a string.
    fn parse(&mut self, fields: &Fields<'a>, text: &Text, range: Span) -> Option<Shape> {
        let raw = text.value.get(range.clone())?;
        let start = range.start + (raw.len() - raw.trim_start().len());
        let raw = raw.trim();
        let range = start..start + raw.len();
        if let Some((_, data_type)) = SIMPLE.iter().find(|(name, _)| *name == raw) {
            return Some(Shape::simple(data_type.clone()));
        }
        if raw.starts_with("list<") && raw.ends_with('>') {
            let inner = range.start + "list<".len()..range.end - 1;
            let item = self.deeper(fields, text.place(range), |types| types.parse(fields, text, inner))?;
            return Some(Shape::list(item));
        }
        if let Some(arguments) = raw.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')) {
            return decimal(fields, text.place(range), raw, arguments);
        }
        if self.said.contains_key(raw) {
            let (columns, size) = self.named(raw, &text.place(range), fields)?;
            let (_, declaration) = self.said.get(raw)?;
            return struct_of(declaration, (columns, size));
        }
        let candidates = SIMPLE.iter().map(|(name, _)| *name).chain(self.said.keys().map(String::as_str));
        let lower = raw.to_lowercase();
        let foreign = FOREIGN.iter().find(|(foreign, _)| *foreign == lower);
        let help = foreign
            .map(|(_, ours)| format!("did you mean `{ours}`?"))
            .or_else(|| did_you_mean(raw, candidates))
            .unwrap_or_else(|| {
                "types are bool, int32, int64, float32, float64, decimal(p,s), string, bytes, date, timestamp, list<T>, \
                 and the structs of `[types]`"
                    .to_owned()
            });
        fields.diagnostics().push(
            Diagnostic::error(Code::UnknownType, text.place(range), format!("`{raw}` is not a type"))
                .help(help),
        );
        None
    }

    /// The fields of a named type; `place` is where it is named.
    fn named(&mut self, name: &str, place: &Span, fields: &Fields<'a>) -> Option<(Vec<Column>, usize)> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let (declared, table) = self.said.get(name).cloned()?;
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let mut path: Vec<&str> = self.open.iter().skip(start).map(String::as_str).collect();
            path.push(name);
            fields.diagnostics().push(
                Diagnostic::error(
                    Code::RecursiveType,
                    place.clone(),
                    format!("the type `{name}` contains itself"),
                )
                .label(path.join(" → "))
                .also(declared, format!("`{name}` is declared here"))
                .help("a struct has a fixed number of fields; take the field out"),
            );
            return None;
        }
        self.open.push(name.to_owned());
        let columns = self.deeper(fields, place.clone(), |types| types.columns(&table));
        self.open.pop();
        self.known.insert(name.to_owned(), columns.clone());
        columns
    }
}

/// The struct of some fields.
fn struct_of(table: &Fields<'_>, (columns, size): (Vec<Column>, usize)) -> Option<Shape> {
    if columns.is_empty() {
        table.diagnostics().push(
            Diagnostic::error(Code::NoColumns, table.header.clone(), "a struct has no field")
                .help("add a field: `{ name = \"string\" }`"),
        );
        return None;
    }
    let children: Vec<FieldLayout> = columns.into_iter().map(|column| column.layout).collect();
    let fields: Vec<Field> =
        children.iter().map(|child| Field::new(&child.name, child.data_type.clone(), true)).collect();
    Some(Shape { data_type: DataType::Struct(fields.into()), children, size: size + 1 })
}

fn decimal(fields: &Fields<'_>, place: Span, raw: &str, arguments: &str) -> Option<Shape> {
    let numbers = arguments.split_once(',').and_then(|(precision, scale)| {
        Some((precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?))
    });
    match numbers {
        Some((precision @ 1..=38, scale)) if (0..=precision as i8).contains(&scale) => {
            return Some(Shape::simple(DataType::Decimal128(precision, scale)));
        }
        Some(_) => fields.diagnostics().push(
            Diagnostic::error(Code::OutOfRange, place, format!("`{raw}` is out of range"))
                .label("expected 1 to 38 digits, of which at most all stand after the point"),
        ),
        None => fields.diagnostics().push(
            Diagnostic::error(Code::UnknownType, place, format!("`{raw}` is not a type"))
                .help("write `decimal(digits,digits after the point)`, such as `decimal(18,2)`"),
        ),
    }
    None
}

/// How a type is shown in messages: structs shortened.
pub(super) fn shown(data_type: &DataType) -> String {
    let name = type_name(data_type);
    if name.chars().count() > 60 { format!("{}…", name.chars().take(59).collect::<String>()) } else { name }
}
