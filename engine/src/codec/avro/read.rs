//! Avro bytes to columns: a reader compiled from a writer's schema and the columns it is read into.
//!
//! Resolution is done once per writer's schema; reading goes from the bytes straight into the columns.

use arrow::datatypes::DataType;
use hashbrown::HashMap;
use millstream_operators::columns::{ColumnBuilder, Values};
use millstream_operators::diagnostic::listed;
use millstream_operators::schema::type_name;

use super::super::binary::Input;
use super::super::json_read::Fault;
use super::super::layout::FieldLayout;
use super::super::text::rescaled;
use super::schema::{AvroSchema, Field, Schema};
use super::write::default_bytes;

/// How many items without bytes a list may claim.
const MAX_EMPTY_ITEMS: u64 = 1 << 16;
/// How deep skipped values may be nested.
const MAX_DEPTH: usize = 128;

/// Reads values of one writer's schema into columns.
#[derive(Debug)]
pub(crate) struct AvroReader {
    top: Top,
    skips: Vec<Skip>,
}

#[derive(Debug)]
enum Top {
    Record(RecordReader),
    /// A schema that is no record: its values are the one column.
    Value(usize, Node),
}

#[derive(Debug)]
struct RecordReader {
    /// In the writer's order.
    steps: Vec<Step>,
    /// Columns that the writer does not have.
    defaults: Vec<(usize, Fallback)>,
}

#[derive(Debug)]
enum Step {
    Read(usize, String, Node),
    Skip(Skip),
}

/// What a column without a field of the writer holds.
#[derive(Debug)]
enum Fallback {
    Null,
    /// The default of the reader's schema, as bytes.
    Value(Vec<u8>, Box<Node>),
}

/// How values of a writer's type go into a column.
#[derive(Debug)]
enum Node {
    Null,
    Bool,
    Integer(Number),
    Float,
    Double,
    Bytes {
        text: bool,
    },
    Fixed(usize),
    Enum(Vec<String>),
    Date,
    /// How many units of the writer are a millisecond.
    Timestamp(i64),
    Decimal {
        size: Option<usize>,
        from: i8,
        to: i8,
        precision: u8,
    },
    List(Box<Node>),
    Record(RecordReader),
    /// A branch that does not fit the column fails when it is met.
    Union(Vec<Result<Node, String>>),
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal(u8, i8),
}

/// How values that no column wants are passed over.
#[derive(Clone, Debug)]
enum Skip {
    Bytes(usize),
    Varint,
    Prefixed,
    List(Box<Skip>),
    Map(Box<Skip>),
    Record(Vec<Skip>),
    Union(Vec<Skip>),
    /// A named type, which may contain itself.
    Named(usize),
}

/// A writer's schema while it is compiled.
struct Writer<'s> {
    schema: &'s AvroSchema,
    skipped: HashMap<&'s str, usize>,
    skips: Vec<Skip>,
}

impl<'s> Writer<'s> {
    fn new(schema: &'s AvroSchema) -> Self {
        Writer { schema, skipped: HashMap::new(), skips: Vec::new() }
    }
}

impl AvroReader {
    /// A reader of `writer`'s values into columns. `reader` is the schema that the user gave: its fields have aliases and
    /// defaults, and a column that the writer lacks must have one. Without it such a column is null.
    ///
    /// # Errors
    /// If values of the schema cannot be values of the columns.
    pub(crate) fn new<'f>(
        writer: &AvroSchema,
        reader: Option<&AvroSchema>,
        fields: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Result<Self, String> {
        let mut compiled = Writer::new(writer);
        let reader = reader.map(|reader| (&reader.root, reader));
        let fields: Vec<(usize, &FieldLayout)> = fields.collect();
        let top = match (&writer.root, fields.as_slice()) {
            (Schema::Record(..), _) => Top::Record(record(&mut compiled, &writer.root, reader, &fields)?),
            (root, [(column, field)]) => Top::Value(*column, node(&mut compiled, root, reader, field)?),
            (other, _) => {
                return Err(format!(
                    "the schema is {}, expected a record, since there is not exactly one column",
                    other.describe()
                ));
            }
        };
        Ok(AvroReader { top, skips: compiled.skips })
    }

    /// Reads the body of a record into row `row` of the columns.
    #[inline]
    pub(crate) fn read(&self, bytes: &[u8], columns: &mut [ColumnBuilder], row: usize) -> Result<(), Fault> {
        let mut input = Input::new(bytes, "value");
        match &self.top {
            Top::Record(record) => record.read(self, &mut input, columns, row)?,
            Top::Value(column, node) => match columns.get_mut(*column) {
                Some(column) => node.read(self, &mut input, column)?,
                None => return Ok(()),
            },
        }
        match bytes.len() - input.at {
            0 => Ok(()),
            more => Err(Fault::at(input.at, format!("found {more} bytes more than the schema says"))),
        }
    }
}

/// The reader's schema at a place, and the whole of it.
type Reader<'r> = Option<(&'r Schema, &'r AvroSchema)>;

/// The type itself, or what a nullable union holds besides null.
fn content<'r>(schema: &'r Schema, whole: &'r AvroSchema) -> &'r Schema {
    match whole.resolved(schema) {
        Schema::Union(variants) => {
            let mut others = variants.iter().filter(|variant| !matches!(variant, Schema::Null));
            match (others.next(), others.next()) {
                (Some(one), None) => whole.resolved(one),
                _ => schema,
            }
        }
        other => other,
    }
}

fn record<'s>(
    writer: &mut Writer<'s>,
    schema: &'s Schema,
    reader: Reader<'_>,
    columns: &[(usize, &FieldLayout)],
) -> Result<RecordReader, String> {
    let Schema::Record(_, written) = schema else { return Err("no record".to_owned()) };
    // The column of each field, and what the reader's schema says about it.
    let mut wanted: HashMap<&str, (usize, &FieldLayout, Option<&Field>)> = HashMap::new();
    let mut defaults = Vec::new();
    for (column, layout) in columns {
        let said = match reader.map(|(schema, whole)| content(schema, whole)) {
            Some(Schema::Record(_, fields)) => {
                let field = fields.iter().find(|field| field.name == layout.field);
                let names = || listed(fields.iter().map(|field| field.name.as_str()));
                Some(field.ok_or_else(|| {
                    format!(
                        "the schema has no field `{}` for the column; its fields are {}",
                        layout.field,
                        names()
                    )
                })?)
            }
            _ => None,
        };
        let aliases = said.iter().flat_map(|field| &field.aliases).map(String::as_str);
        let found = std::iter::once(layout.field.as_str())
            .chain(aliases)
            .find_map(|name| written.iter().find(|field| field.name == name));
        match (found, said, reader) {
            (Some(field), said, _) => {
                wanted.insert(field.name.as_str(), (*column, layout, said));
            }
            (None, Some(said), Some((_, whole))) => {
                let fallback = fallback(said, whole, layout)
                    .map_err(|why| format!("field `{}`: {why}", layout.field))?;
                defaults.push((*column, fallback));
            }
            (None, ..) => defaults.push((*column, Fallback::Null)),
        }
    }
    let mut steps = Vec::with_capacity(written.len());
    for field in written {
        steps.push(match wanted.get(field.name.as_str()) {
            Some((column, layout, said)) => {
                let reader = said.zip(reader).map(|(field, (_, whole))| (&field.schema, whole));
                let node = node(writer, &field.schema, reader, layout)
                    .map_err(|why| format!("field `{}`: {why}", field.name))?;
                Step::Read(*column, field.name.clone(), node)
            }
            None => Step::Skip(skip(writer, &field.schema)?),
        });
    }
    Ok(RecordReader { steps, defaults })
}

/// What the reader's schema gives a column that the writer does not have.
fn fallback(field: &Field, whole: &AvroSchema, layout: &FieldLayout) -> Result<Fallback, String> {
    let Some(default) = &field.default else {
        return Err("the writer's schema lacks it, and the schema given has no default for it".to_owned());
    };
    let bytes = default_bytes(default, &field.schema, whole)?;
    // The default is read as if a writer with the reader's schema had written it.
    let node = node(&mut Writer::new(whole), &field.schema, None, layout)?;
    Ok(Fallback::Value(bytes, Box::new(node)))
}

fn node<'s>(
    writer: &mut Writer<'s>,
    schema: &'s Schema,
    reader: Reader<'_>,
    layout: &FieldLayout,
) -> Result<Node, String> {
    let schema = writer.schema.resolved(schema);
    let wanted = &layout.data_type;
    let misfit = || format!("{} cannot be read as {}", schema.describe(), type_name(wanted));
    let number = match wanted {
        DataType::Int32 => Some(Number::Int32),
        DataType::Int64 => Some(Number::Int64),
        DataType::Float32 => Some(Number::Float32),
        DataType::Float64 => Some(Number::Float64),
        DataType::Decimal128(precision, scale) => Some(Number::Decimal(*precision, *scale)),
        _ => None,
    };
    Ok(match (schema, wanted, number) {
        (Schema::Null, ..) => Node::Null,
        (Schema::Union(variants), ..) => {
            let branches: Vec<Result<Node, String>> =
                variants.iter().map(|variant| node(writer, variant, reader, layout)).collect();
            let fits = |branch: &Result<Node, String>| !matches!(branch, Ok(Node::Null) | Err(_));
            if !branches.iter().any(fits)
                && let Some(why) = branches.iter().find_map(|branch| branch.as_ref().err())
            {
                return Err(why.clone());
            }
            Node::Union(branches)
        }
        (Schema::Boolean, DataType::Boolean, _) => Node::Bool,
        (Schema::Int, _, Some(number)) => Node::Integer(number),
        (Schema::Long, _, Some(number)) if !matches!(number, Number::Int32) => Node::Integer(number),
        (Schema::Float, DataType::Float32 | DataType::Float64, _) => Node::Float,
        (Schema::Double, DataType::Float64, _) => Node::Double,
        (Schema::String | Schema::Bytes, DataType::Utf8, _) => Node::Bytes { text: true },
        (Schema::Bytes | Schema::String, DataType::Binary, _) => Node::Bytes { text: false },
        (Schema::Fixed(size), DataType::Binary, _) => Node::Fixed(*size),
        (Schema::Enum(_, symbols), DataType::Utf8, _) => Node::Enum(symbols.clone()),
        (Schema::Date, DataType::Date32, _) => Node::Date,
        (Schema::Long, DataType::Timestamp(..), _) => Node::Timestamp(1),
        (Schema::Timestamp(unit), DataType::Timestamp(..), _) => Node::Timestamp(*unit),
        (Schema::Decimal { size, scale: from, .. }, DataType::Decimal128(precision, scale), _) => {
            Node::Decimal { size: *size, from: *from, to: *scale, precision: *precision }
        }
        (Schema::Array(items), DataType::List(_), _) => {
            let item = layout.children.first().ok_or_else(misfit)?;
            let reader = reader.map(|(schema, whole)| match content(schema, whole) {
                Schema::Array(items) => (&**items, whole),
                _ => (schema, whole),
            });
            let node = node(writer, items, reader, item).map_err(|why| format!("item: {why}"))?;
            Node::List(Box::new(node))
        }
        (Schema::Record(..), DataType::Struct(_), _) => {
            let children: Vec<(usize, &FieldLayout)> = layout.children.iter().enumerate().collect();
            Node::Record(record(writer, schema, reader, &children)?)
        }
        _ => return Err(misfit()),
    })
}

fn skip<'s>(writer: &mut Writer<'s>, schema: &'s Schema) -> Result<Skip, String> {
    let schema = writer.schema.resolved(schema);
    Ok(match schema {
        // A record may contain itself: it is compiled once, and its content refers to it.
        Schema::Record(name, fields) => {
            if let Some(index) = writer.skipped.get(name.as_str()) {
                return Ok(Skip::Named(*index));
            }
            let index = writer.skips.len();
            writer.skips.push(Skip::Bytes(0));
            writer.skipped.insert(name, index);
            let fields: Result<Vec<Skip>, String> =
                fields.iter().map(|field| skip(writer, &field.schema)).collect();
            let fields = fields?;
            if let Some(slot) = writer.skips.get_mut(index) {
                *slot = Skip::Record(fields);
            }
            Skip::Named(index)
        }
        Schema::Null => Skip::Bytes(0),
        Schema::Boolean => Skip::Bytes(1),
        Schema::Float => Skip::Bytes(4),
        Schema::Double => Skip::Bytes(8),
        Schema::Fixed(size) | Schema::Decimal { size: Some(size), .. } => Skip::Bytes(*size),
        Schema::Bytes | Schema::String | Schema::Decimal { size: None, .. } => Skip::Prefixed,
        Schema::Int | Schema::Long | Schema::Date | Schema::Timestamp(_) | Schema::Enum(..) => Skip::Varint,
        Schema::Array(items) => Skip::List(Box::new(skip(writer, items)?)),
        Schema::Map(values) => Skip::Map(Box::new(skip(writer, values)?)),
        Schema::Union(variants) => {
            Skip::Union(variants.iter().map(|variant| skip(writer, variant)).collect::<Result<_, _>>()?)
        }
        Schema::Named(name) => return Err(format!("the schema names the unknown type `{name}`")),
    })
}

impl<'a> Input<'a> {
    #[inline]
    fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        let length = self.zigzag()?;
        let length = usize::try_from(length)
            .map_err(|_| Fault::at(start, format!("found the length {length}, expected 0 or more")))?;
        self.take(length)
    }

    /// The items of a list or map, in its blocks.
    #[inline]
    fn items(&mut self, mut item: impl FnMut(&mut Self, usize) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut index = 0;
        loop {
            let start = self.at;
            let count = self.zigzag()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes follows.
                self.zigzag()?;
            }
            let count = count.unsigned_abs();
            let left = (self.bytes.len() - self.at) as u64;
            if count > left.max(MAX_EMPTY_ITEMS) {
                return Err(Fault::at(start, format!("found a list of {count} items in {left} bytes")));
            }
            for _ in 0..count {
                item(self, index)?;
                index += 1;
            }
        }
    }
}

impl RecordReader {
    #[inline]
    fn read(
        &self,
        reader: &AvroReader,
        input: &mut Input<'_>,
        columns: &mut [ColumnBuilder],
        row: usize,
    ) -> Result<(), Fault> {
        for step in &self.steps {
            match step {
                Step::Read(column, name, node) => match columns.get_mut(*column) {
                    Some(column) => {
                        node.read(reader, input, column).map_err(|fault| fault.within_field(name))?;
                    }
                    None => return Err(Fault::at(input.at, "there is no such column")),
                },
                Step::Skip(skip) => skip.pass(reader, input, 0)?,
            }
        }
        for (column, fallback) in &self.defaults {
            let Some(column) = columns.get_mut(*column) else { continue };
            debug_assert_eq!(column.len(), row);
            match fallback {
                Fallback::Null => column.null(),
                Fallback::Value(bytes, node) => node.read(reader, &mut input.part(bytes), column)?,
            }
        }
        Ok(())
    }
}

impl Node {
    #[inline]
    fn read(
        &self,
        reader: &AvroReader,
        input: &mut Input<'_>,
        column: &mut ColumnBuilder,
    ) -> Result<(), Fault> {
        let start = input.at;
        let row = column.len();
        match (self, column.values()) {
            (Node::Union(branches), _) => {
                let branch = input.zigzag()?;
                return match usize::try_from(branch).ok().and_then(|branch| branches.get(branch)) {
                    Some(Ok(node)) => node.read(reader, input, column),
                    Some(Err(why)) => Err(Fault::at(start, why)),
                    None => Err(Fault::at(
                        start,
                        format!("found branch {branch} of a union of {}", branches.len()),
                    )),
                };
            }
            (Node::Null, _) => {
                column.null();
                return Ok(());
            }
            (Node::Bool, Values::Bool(values)) => match input.array::<1>()? {
                [0] => values.append(false),
                [1] => values.append(true),
                [other] => {
                    return Err(Fault::at(start, format!("found the byte 0x{other:02x}, expected a bool")));
                }
            },
            (Node::Integer(Number::Int64), Values::Int64(values)) => values.push(input.zigzag()?),
            (Node::Integer(Number::Int32), Values::Int32(values)) | (Node::Date, Values::Int32(values)) => {
                let number = input.zigzag()?;
                values.push(i32::try_from(number).map_err(|_| {
                    Fault::at(start, format!("found {number}, which is out of the range of int32"))
                })?);
            }
            (Node::Integer(_), Values::Float32(values)) => values.push(input.zigzag()? as f32),
            (Node::Integer(_), Values::Float64(values)) => values.push(input.zigzag()? as f64),
            (Node::Integer(Number::Decimal(precision, scale)), Values::Decimal(values)) => {
                let number = i128::from(input.zigzag()?);
                values.push(rescaled(number, 0, *scale, *precision).map_err(|why| Fault::at(start, why))?);
            }
            (Node::Float, Values::Float32(values)) => values.push(f32::from_le_bytes(input.array()?)),
            (Node::Float, Values::Float64(values)) => {
                values.push(f64::from(f32::from_le_bytes(input.array()?)));
            }
            (Node::Double, Values::Float64(values)) => values.push(f64::from_le_bytes(input.array()?)),
            (Node::Bytes { text }, Values::Bytes(values)) => {
                let bytes = input.sized()?;
                if *text && let Err(error) = std::str::from_utf8(bytes) {
                    let place = input.at - bytes.len() + error.valid_up_to();
                    return Err(Fault::at(place, "found bytes that are not UTF-8, expected a string"));
                }
                values.data.extend_from_slice(bytes);
            }
            (Node::Fixed(size), Values::Bytes(values)) => values.data.extend_from_slice(input.take(*size)?),
            (Node::Enum(symbols), Values::Bytes(values)) => {
                let symbol = input.zigzag()?;
                match usize::try_from(symbol).ok().and_then(|symbol| symbols.get(symbol)) {
                    Some(name) => values.data.extend_from_slice(name.as_bytes()),
                    None => {
                        let message = format!("found symbol {symbol} of an enum of {}", symbols.len());
                        return Err(Fault::at(start, message));
                    }
                }
            }
            (Node::Timestamp(unit), Values::Int64(values)) => values.push(input.zigzag()?.div_euclid(*unit)),
            (Node::Decimal { size, from, to, precision }, Values::Decimal(values)) => {
                let bytes = match size {
                    Some(size) => input.take(*size)?,
                    None => input.sized()?,
                };
                let number = big_endian(bytes)
                    .ok_or_else(|| Fault::at(start, "found a decimal of more than 38 digits"))?;
                values.push(rescaled(number, *from, *to, *precision).map_err(|why| Fault::at(start, why))?);
            }
            (Node::List(node), Values::List(list)) => input.items(|input, index| {
                node.read(reader, input, &mut list.items).map_err(|fault| fault.within_item(index))
            })?,
            (Node::Record(record), Values::Struct(fields)) => record.read(reader, input, fields, row)?,
            _ => {
                let data_type = type_name(column.data_type());
                return Err(Fault::at(start, format!("the value does not fit a column of type {data_type}")));
            }
        }
        column.valid().map_err(|error| Fault::at(start, error))
    }
}

/// A number in two's complement; `None` if it has more than 128 bits.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let sign = if negative { 0xff } else { 0 };
    let from = bytes.len().saturating_sub(16);
    let (more, rest) = bytes.split_at(from);
    if more.iter().any(|byte| *byte != sign) {
        return None;
    }
    let mut number = if negative { -1i128 } else { 0 };
    for byte in rest {
        number = number << 8 | i128::from(*byte);
    }
    (more.is_empty() || (number < 0) == negative).then_some(number)
}

impl Skip {
    fn pass(&self, reader: &AvroReader, input: &mut Input<'_>, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::at(input.at, format!("found more than {MAX_DEPTH} levels of nesting")));
        }
        match self {
            Skip::Bytes(count) => input.take(*count).map(drop),
            Skip::Varint => input.zigzag().map(drop),
            Skip::Prefixed => input.sized().map(drop),
            Skip::List(item) => input.items(|input, _| item.pass(reader, input, depth + 1)),
            Skip::Map(value) => input.items(|input, _| {
                input.sized()?;
                value.pass(reader, input, depth + 1)
            }),
            Skip::Record(fields) => fields.iter().try_for_each(|field| field.pass(reader, input, depth + 1)),
            Skip::Union(branches) => {
                let start = input.at;
                let branch = input.zigzag()?;
                let found = usize::try_from(branch).ok().and_then(|branch| branches.get(branch));
                let unknown =
                    || Fault::at(start, format!("found branch {branch} of a union of {}", branches.len()));
                found.ok_or_else(unknown)?.pass(reader, input, depth + 1)
            }
            Skip::Named(index) => match reader.skips.get(*index) {
                Some(skip) => skip.pass(reader, input, depth + 1),
                None => Err(Fault::at(input.at, "the schema names an unknown type")),
            },
        }
    }
}
