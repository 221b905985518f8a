//! Values come back as they were written, or not at all.

use millstream_state::value::{ValueError, ValueReader, ValueWriter};
use proptest::{collection::vec, prelude::*};

#[derive(Clone, Debug)]
enum Field {
    U8(u8),
    Bool(bool),
    I32(i32),
    I64(i64),
    I128(i128),
    U64(u64),
    F32(u32),
    F64(u64),
    Bytes(Vec<u8>),
    Str(String),
    Option(bool),
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        any::<u8>().prop_map(Field::U8),
        any::<bool>().prop_map(Field::Bool),
        prop_oneof![any::<i32>(), -300..300].prop_map(Field::I32),
        prop_oneof![any::<i64>(), -300..300i64].prop_map(Field::I64),
        prop_oneof![any::<i128>(), -300..300i128].prop_map(Field::I128),
        prop_oneof![any::<u64>(), 0..300u64].prop_map(Field::U64),
        any::<u32>().prop_map(Field::F32),
        any::<u64>().prop_map(Field::F64),
        vec(any::<u8>(), 0..300).prop_map(Field::Bytes),
        "\\PC{0,20}".prop_map(Field::Str),
        any::<bool>().prop_map(Field::Option),
    ]
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut value = vec![1, 2, 3];
    let mut writer = ValueWriter::new(&mut value, 4);
    for field in fields {
        match field {
            Field::U8(field) => writer.put_u8(*field),
            Field::Bool(field) => writer.put_bool(*field),
            Field::I32(field) => writer.put_i32(*field),
            Field::I64(field) => writer.put_i64(*field),
            Field::I128(field) => writer.put_i128(*field),
            Field::U64(field) => writer.put_u64(*field),
            Field::F32(bits) => writer.put_f32(f32::from_bits(*bits)),
            Field::F64(bits) => writer.put_f64(f64::from_bits(*bits)),
            Field::Bytes(field) => writer.put_bytes(field),
            Field::Str(field) => writer.put_str(field),
            Field::Option(present) => writer.put_option(*present),
        };
    }
    value
}

/// Reads fields of the same types and writes them again.
fn round_trip(value: &[u8], types: &[Field]) -> Result<Vec<u8>, ValueError> {
    let mut reader = ValueReader::new(value, 4)?;
    let mut fields = Vec::new();
    for field in types {
        fields.push(match field {
            Field::U8(_) => Field::U8(reader.get_u8()?),
            Field::Bool(_) => Field::Bool(reader.get_bool()?),
            Field::I32(_) => Field::I32(reader.get_i32()?),
            Field::I64(_) => Field::I64(reader.get_i64()?),
            Field::I128(_) => Field::I128(reader.get_i128()?),
            Field::U64(_) => Field::U64(reader.get_u64()?),
            Field::F32(_) => Field::F32(reader.get_f32()?.to_bits()),
            Field::F64(_) => Field::F64(reader.get_f64()?.to_bits()),
            Field::Bytes(_) => Field::Bytes(reader.get_bytes()?.to_vec()),
            Field::Str(_) => Field::Str(reader.get_str()?.to_owned()),
            Field::Option(_) => Field::Option(reader.get_option()?),
        });
    }
    reader.finish()?;
    Ok(encode(&fields))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_round_trip(fields in vec(field(), 0..6)) {
        let value = encode(&fields);
        prop_assert_eq!(round_trip(&value, &fields), Ok(value));
    }

    #[test]
    fn a_value_that_is_cut_is_an_error(fields in vec(field(), 1..6), cut in any::<prop::sample::Index>()) {
        let value = encode(&fields);
        prop_assert_eq!(round_trip(&value[..cut.index(value.len())], &fields), Err(ValueError::Truncated));
    }

    #[test]
    fn any_bytes_are_read_or_refused(value in vec(any::<u8>(), 0..40), fields in vec(field(), 0..6)) {
        let _: Result<Vec<u8>, ValueError> = round_trip(&value, &fields);
    }
}

#[test]
fn golden_bytes() {
    let mut value = Vec::new();
    ValueWriter::new(&mut value, 1)
        .put_u8(200)
        .put_bool(true)
        .put_i32(-1)
        .put_i64(1_767_225_600_000)
        .put_i128(-300)
        .put_u64(250)
        .put_u64(251)
        .put_f32(1.5)
        .put_f64(-1.5)
        .put_bytes(&[0, 255])
        .put_str("é")
        .put_option(false);
    let hex: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex.concat(),
        "01c80101fd0050b5ed36030000fb5702fafbfb000000c03f000000000000f8bf0200ff02c3a900"
    );
}

#[test]
fn what_is_wrong_with_a_value_is_said() {
    assert_eq!(ValueReader::new(&[], 1).unwrap_err(), ValueError::Truncated);
    assert_eq!(ValueReader::new(&[2], 1).unwrap_err(), ValueError::Version { found: 2, expected: 1 });
    assert_eq!(ValueReader::new(&[1, 0, 0], 1).unwrap().finish(), Err(ValueError::Trailing(2)));
    assert!(matches!(ValueReader::new(&[1, 2], 1).unwrap().get_bool(), Err(ValueError::Invalid(_))));
    assert!(matches!(ValueReader::new(&[1, 1, 0xC3], 1).unwrap().get_str(), Err(ValueError::Invalid(_))));
    // A length far beyond the value must not be believed.
    let mut reader = ValueReader::new(&[1, 253, 255, 255, 255, 255, 255, 255, 255, 127], 1).unwrap();
    assert_eq!(reader.get_bytes(), Err(ValueError::Truncated));
}
