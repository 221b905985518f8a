//! Protobuf bytes to columns: a reader compiled from a message's descriptor and the columns it is read into.

use arrow::datatypes::DataType;
use hashbrown::HashMap;
use millstream_operators::columns::{ColumnBuilder, Values};
use millstream_operators::schema::type_name;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::super::binary::Input;
use super::super::json_read::Fault;
use super::super::layout::FieldLayout;
use super::super::text::rescaled;
use super::{FIXED32, FIXED64, PREFIXED, TIMESTAMP, VARINT, WRAPPERS, field_of};

/// How deep groups may be nested.
const MAX_DEPTH: usize = 64;

/// Reads values of one message into columns.
#[derive(Debug)]
pub(crate) struct MessageReader {
    fields: Vec<FieldReader>,
    by_number: HashMap<u32, usize>,
    /// Columns that the message does not have.
    missing: Vec<usize>,
}

#[derive(Debug)]
struct FieldReader {
    number: u32,
    name: String,
    column: usize,
    repeated: bool,
    /// Whether a field that is absent has no value, and not the default of its type.
    presence: bool,
    node: Node,
}

#[derive(Debug)]
enum Node {
    Integer(Integer),
    Bool,
    Float,
    Double,
    Bytes {
        text: bool,
    },
    Enum(HashMap<i32, String>),
    Timestamp,
    /// A message of one field, which stands for a value that may be null.
    Wrapper(Box<Node>),
    Message(MessageReader),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Integer {
    /// `int32` and `int64`.
    Plain,
    Unsigned,
    ZigZag,
    Fixed32,
    SignedFixed32,
    Fixed64,
    SignedFixed64,
}

impl MessageReader {
    /// A reader of a message into columns. If `strict`, each column must have a field; otherwise one without is null.
    ///
    /// # Errors
    /// If values of the message cannot be values of the columns.
    pub(crate) fn new<'f>(
        message: &MessageDescriptor,
        strict: bool,
        columns: impl Iterator<Item = (usize, &'f FieldLayout)>,
    ) -> Result<Self, String> {
        let mut fields = Vec::new();
        let mut missing = Vec::new();
        for (column, layout) in columns {
            let field = match field_of(message, layout) {
                Ok(field) => field,
                Err(reason) if strict => return Err(reason),
                Err(_) => {
                    missing.push(column);
                    continue;
                }
            };
            let within = |why: String| format!("field `{}`: {why}", layout.field);
            let is_list = matches!(layout.data_type, DataType::List(_));
            let repeated = field.cardinality() == prost_reflect::Cardinality::Repeated;
            let of = match (is_list, repeated) {
                (false, false) => layout,
                (true, true) => {
                    layout.children.first().ok_or_else(|| within("a list without items".into()))?
                }
                (false, true) => {
                    let found =
                        format!("it is repeated, and cannot be read as {}", type_name(&layout.data_type));
                    return Err(within(found));
                }
                (true, false) => {
                    return Err(within("it is not repeated, and cannot be read as a list".into()));
                }
            };
            fields.push(FieldReader {
                number: field.number(),
                name: field.name().to_owned(),
                column,
                repeated,
                presence: field.supports_presence(),
                node: node(&field, strict, of).map_err(within)?,
            });
        }
        let by_number = fields.iter().enumerate().map(|(index, field)| (field.number, index)).collect();
        Ok(MessageReader { fields, by_number, missing })
    }

    /// Reads a message into row `row` of the columns.
    #[inline]
    pub(crate) fn read(&self, bytes: &[u8], columns: &mut [ColumnBuilder], row: usize) -> Result<(), Fault> {
        let mut input = Input::new(bytes, "message");
        // Writers mostly keep the order of numbers: the field after the last is tried before the map is asked.
        let mut next = 0;
        while input.at < bytes.len() {
            let start = input.at;
            let (number, wire) = input.tag()?;
            let expected = self.fields.get(next).filter(|field| field.number == number);
            let field = expected.or_else(|| {
                next = *self.by_number.get(&number)?;
                self.fields.get(next)
            });
            let Some(field) = field else {
                input.skip(number, wire, 0)?;
                continue;
            };
            next += usize::from(!field.repeated);
            let Some(column) = columns.get_mut(field.column) else {
                return Err(Fault::at(start, "there is no such column"));
            };
            let read = if field.repeated {
                field.read_items(&mut input, wire, column)
            } else if column.len() > row {
                field.read_again(&mut input, wire, column, row, bytes)
            } else {
                field.node.read(&mut input, wire, column)
            };
            read.map_err(|fault| fault.within_field(&field.name))?;
        }
        for field in &self.fields {
            let Some(column) = columns.get_mut(field.column) else { continue };
            if field.repeated {
                column.valid().map_err(|error| Fault::at(bytes.len(), error))?;
            } else if column.len() == row {
                match field.presence {
                    true => column.null(),
                    false => field.node.default(column)?,
                }
            }
        }
        for column in &self.missing {
            if let Some(column) = columns.get_mut(*column) {
                column.null();
            }
        }
        Ok(())
    }
}

fn node(field: &FieldDescriptor, strict: bool, layout: &FieldLayout) -> Result<Node, String> {
    let wanted = &layout.data_type;
    let integer = |kind: Integer, wide: bool| {
        let fits = match wanted {
            DataType::Int32 => !wide && !matches!(kind, Integer::Unsigned | Integer::Fixed32),
            DataType::Float64 => !wide,
            DataType::Int64 | DataType::Decimal128(..) => true,
            DataType::Timestamp(..) => wide,
            _ => false,
        };
        fits.then_some(Node::Integer(kind))
    };
    let found = match (field.kind(), wanted) {
        (Kind::Bool, DataType::Boolean) => Some(Node::Bool),
        (Kind::Int32, _) => integer(Integer::Plain, false),
        (Kind::Uint32, _) => integer(Integer::Unsigned, false),
        (Kind::Sint32, _) => integer(Integer::ZigZag, false),
        (Kind::Fixed32, _) => integer(Integer::Fixed32, false),
        (Kind::Sfixed32, _) => integer(Integer::SignedFixed32, false),
        (Kind::Int64, _) => integer(Integer::Plain, true),
        (Kind::Uint64, _) => integer(Integer::Unsigned, true),
        (Kind::Sint64, _) => integer(Integer::ZigZag, true),
        (Kind::Fixed64, _) => integer(Integer::Fixed64, true),
        (Kind::Sfixed64, _) => integer(Integer::SignedFixed64, true),
        (Kind::Float, DataType::Float32 | DataType::Float64) => Some(Node::Float),
        (Kind::Double, DataType::Float64) => Some(Node::Double),
        (Kind::String, DataType::Utf8) => Some(Node::Bytes { text: true }),
        (Kind::Bytes, DataType::Binary) => Some(Node::Bytes { text: false }),
        (Kind::Enum(symbols), DataType::Utf8) => {
            // Of names for one number the first counts.
            let mut names = HashMap::new();
            for value in symbols.values() {
                names.entry(value.number()).or_insert_with(|| value.name().to_owned());
            }
            Some(Node::Enum(names))
        }
        (Kind::Message(message), DataType::Timestamp(..)) if message.full_name() == TIMESTAMP => {
            Some(Node::Timestamp)
        }
        (Kind::Message(message), _) if WRAPPERS.contains(&message.full_name()) => {
            match message.get_field(1) {
                Some(value) => Some(Node::Wrapper(Box::new(node(&value, strict, layout)?))),
                None => None,
            }
        }
        (Kind::Message(message), DataType::Struct(_)) if !field.is_group() => {
            let children = layout.children.iter().enumerate();
            Some(Node::Message(MessageReader::new(&message, strict, children)?))
        }
        _ => None,
    };
    found.ok_or_else(|| format!("{} cannot be read as {}", describe(field), type_name(wanted)))
}

/// A field's type in messages.
pub(super) fn describe(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(message) => format!("the message `{}`", message.full_name()),
        Kind::Enum(symbols) => format!("the enum `{}`", symbols.full_name()),
        kind => format!("{kind:?}").to_lowercase(),
    }
}

impl<'a> Input<'a> {
    #[inline]
    fn tag(&mut self) -> Result<(u32, u32), Fault> {
        let start = self.at;
        let tag = self.varint()?;
        match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => Ok((tag >> 3, tag & 7)),
            _ => Err(Fault::at(start, format!("found {tag}, which is no field's tag"))),
        }
    }

    #[inline]
    fn prefixed(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.varint()?;
        self.take(usize::try_from(length).map_err(|_| self.ended())?)
    }

    fn skip(&mut self, number: u32, wire: u32, depth: usize) -> Result<(), Fault> {
        let start = self.at;
        match wire {
            VARINT => self.varint().map(drop),
            FIXED64 => self.take(8).map(drop),
            PREFIXED => self.prefixed().map(drop),
            FIXED32 => self.take(4).map(drop),
            // A group: fields up to its end.
            3 if depth < MAX_DEPTH => loop {
                let (inner, wire) = self.tag()?;
                match wire {
                    4 if inner == number => return Ok(()),
                    wire => self.skip(inner, wire, depth + 1)?,
                }
            },
            other => Err(Fault::at(start, format!("found the wire type {other} in field {number}"))),
        }
    }
}

impl FieldReader {
    /// One item of a repeated field, or several in one piece.
    fn read_items(&self, input: &mut Input<'_>, wire: u32, column: &mut ColumnBuilder) -> Result<(), Fault> {
        let start = input.at;
        let Values::List(list) = column.values() else {
            return Err(Fault::at(start, "the value does not fit the column, which is no list"));
        };
        if wire != PREFIXED || !self.node.is_packable() {
            return self.node.read(input, wire, &mut list.items);
        }
        let bytes = input.prefixed()?;
        let mut packed = input.part(bytes);
        while packed.at < bytes.len() {
            self.node.read(&mut packed, self.node.wire(), &mut list.items)?;
        }
        Ok(())
    }

    /// A field that came before: the last value counts, and messages are merged.
    #[cold]
    fn read_again(
        &self,
        input: &mut Input<'_>,
        wire: u32,
        column: &mut ColumnBuilder,
        row: usize,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        column.truncate(row);
        if !matches!(self.node, Node::Message(_) | Node::Timestamp | Node::Wrapper(_)) {
            return self.node.read(input, wire, column);
        }
        // The bytes of a merged message are those of its parts one after the other.
        input.skip(self.number, wire, 0)?;
        let mut merged = Vec::new();
        let mut all = input.part(bytes.get(..input.at).unwrap_or_default());
        while all.at < all.bytes.len() {
            let (number, wire) = all.tag()?;
            match number == self.number && wire == PREFIXED {
                true => merged.extend_from_slice(all.prefixed()?),
                false => all.skip(number, wire, 0)?,
            }
        }
        self.node.read_message(&merged, column)
    }
}

impl Node {
    /// The wire type of the type's values.
    fn wire(&self) -> u32 {
        match self {
            Node::Integer(Integer::Fixed32 | Integer::SignedFixed32) | Node::Float => FIXED32,
            Node::Integer(Integer::Fixed64 | Integer::SignedFixed64) | Node::Double => FIXED64,
            Node::Integer(_) | Node::Bool | Node::Enum(_) => VARINT,
            Node::Bytes { .. } | Node::Timestamp | Node::Wrapper(_) | Node::Message(_) => PREFIXED,
        }
    }

    fn is_packable(&self) -> bool {
        self.wire() != PREFIXED
    }

    #[inline]
    fn read(&self, input: &mut Input<'_>, wire: u32, column: &mut ColumnBuilder) -> Result<(), Fault> {
        let start = input.at;
        if wire != self.wire() {
            let message = format!("found the wire type {wire}, expected {}: the schemas differ", self.wire());
            return Err(Fault::at(start, message));
        }
        match (self, column.values()) {
            (Node::Bool, Values::Bool(values)) => values.append(input.varint()? != 0),
            (Node::Integer(kind), _) => return integer(*kind, input, column),
            (Node::Float, Values::Float32(values)) => values.push(f32::from_le_bytes(input.array()?)),
            (Node::Float, Values::Float64(values)) => {
                values.push(f64::from(f32::from_le_bytes(input.array()?)));
            }
            (Node::Double, Values::Float64(values)) => values.push(f64::from_le_bytes(input.array()?)),
            (Node::Bytes { text }, Values::Bytes(values)) => {
                let bytes = input.prefixed()?;
                if *text && let Err(error) = std::str::from_utf8(bytes) {
                    let place = input.at - bytes.len() + error.valid_up_to();
                    return Err(Fault::at(place, "found bytes that are not UTF-8, expected a string"));
                }
                values.data.extend_from_slice(bytes);
            }
            (Node::Enum(names), Values::Bytes(values)) => {
                // Enums are numbers of 32 bits, whatever is written.
                let number = input.varint()? as i32;
                match names.get(&number) {
                    Some(name) => values.data.extend_from_slice(name.as_bytes()),
                    // A number that the schema does not name yet is kept as it is.
                    None => values.data.extend_from_slice(number.to_string().as_bytes()),
                }
            }
            (Node::Timestamp | Node::Wrapper(_) | Node::Message(_), _) => {
                return self.read_message(input.prefixed()?, column);
            }
            _ => {
                let data_type = type_name(column.data_type());
                return Err(Fault::at(start, format!("the value does not fit a column of type {data_type}")));
            }
        }
        column.valid().map_err(|error| Fault::at(start, error))
    }

    /// The content of a message.
    fn read_message(&self, bytes: &[u8], column: &mut ColumnBuilder) -> Result<(), Fault> {
        let row = column.len();
        match (self, column.values()) {
            (Node::Message(reader), Values::Struct(fields)) => reader.read(bytes, fields, row)?,
            (Node::Timestamp, Values::Int64(values)) => values.push(timestamp(bytes)?),
            (Node::Wrapper(node), _) => {
                let mut input = Input::new(bytes, "message");
                while input.at < bytes.len() {
                    match input.tag()? {
                        (1, wire) => {
                            column.truncate(row);
                            node.read(&mut input, wire, column)?;
                        }
                        (number, wire) => input.skip(number, wire, 0)?,
                    }
                }
                if column.len() == row {
                    node.default(column)?;
                }
                return Ok(());
            }
            _ => return Err(Fault::at(0, "a message does not fit the column")),
        }
        column.valid().map_err(|error| Fault::at(0, error))
    }

    /// The value of a field that is absent.
    fn default(&self, column: &mut ColumnBuilder) -> Result<(), Fault> {
        match (self, column.values()) {
            (Node::Enum(names), Values::Bytes(values)) => {
                let name = names.get(&0).map_or("0", String::as_str);
                values.data.extend_from_slice(name.as_bytes());
            }
            (_, Values::Bool(values)) => values.append(false),
            (_, Values::Int32(values)) => values.push(0),
            (_, Values::Int64(values)) => values.push(0),
            (_, Values::Float32(values)) => values.push(0.0),
            (_, Values::Float64(values)) => values.push(0.0),
            (_, Values::Decimal(values)) => values.push(0),
            (_, Values::Bytes(_) | Values::List(_)) => {}
            (_, Values::Struct(_)) => {
                column.null();
                return Ok(());
            }
        }
        column.valid().map_err(|error| Fault::at(0, error))
    }
}

#[inline]
fn integer(kind: Integer, input: &mut Input<'_>, column: &mut ColumnBuilder) -> Result<(), Fault> {
    let start = input.at;
    let number: i128 = match kind {
        Integer::Plain => i128::from(input.varint()? as i64),
        Integer::Unsigned => i128::from(input.varint()?),
        Integer::ZigZag => i128::from(input.zigzag()?),
        Integer::Fixed32 => u32::from_le_bytes(input.array()?).into(),
        Integer::SignedFixed32 => i32::from_le_bytes(input.array()?).into(),
        Integer::Fixed64 => u64::from_le_bytes(input.array()?).into(),
        Integer::SignedFixed64 => i64::from_le_bytes(input.array()?).into(),
    };
    let range =
        |wanted: &str| Fault::at(start, format!("found {number}, which is out of the range of {wanted}"));
    let decimal = match column.data_type() {
        DataType::Decimal128(precision, scale) => Some((*precision, *scale)),
        _ => None,
    };
    match (column.values(), decimal) {
        (Values::Int32(values), _) => values.push(i32::try_from(number).map_err(|_| range("int32"))?),
        (Values::Int64(values), _) => values.push(i64::try_from(number).map_err(|_| range("int64"))?),
        (Values::Float64(values), _) => values.push(number as f64),
        (Values::Decimal(values), Some((precision, scale))) => {
            values.push(rescaled(number, 0, scale, precision).map_err(|why| Fault::at(start, why))?);
        }
        _ => return Err(Fault::at(start, "an integer does not fit the column")),
    }
    column.valid().map_err(|error| Fault::at(start, error))
}

/// Milliseconds of a `google.protobuf.Timestamp`.
fn timestamp(bytes: &[u8]) -> Result<i64, Fault> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    let mut input = Input::new(bytes, "message");
    while input.at < bytes.len() {
        match input.tag()? {
            (1, VARINT) => seconds = input.varint()? as i64,
            (2, VARINT) => nanos = i64::from(input.varint()? as i32),
            (number, wire) => input.skip(number, wire, 0)?,
        }
    }
    let millis = i128::from(seconds) * 1_000 + i128::from(nanos.div_euclid(1_000_000));
    i64::try_from(millis)
        .map_err(|_| Fault::at(0, format!("found a timestamp of {seconds} seconds, which is out of range")))
}
