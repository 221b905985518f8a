//! `md5` and `sha256`, as PostgreSQL has them: `md5` gives hexadecimal text, `sha256` bytes.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion_common::Result;
use datafusion_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use sha2::Digest as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Algorithm {
    Md5,
    Sha256,
}

/// The digest of a string's or bytes' bytes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Digest {
    algorithm: Algorithm,
    signature: Signature,
}

/// The functions of this module.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let types = [DataType::Utf8, DataType::Binary].map(|data_type| TypeSignature::Exact(vec![data_type]));
    let signature = Signature::one_of(types.to_vec(), Volatility::Immutable);
    let function =
        |algorithm| Arc::new(ScalarUDF::new_from_impl(Digest { algorithm, signature: signature.clone() }));
    vec![function(Algorithm::Md5), function(Algorithm::Sha256)]
}

impl ScalarUDFImpl for Digest {
    fn name(&self) -> &str {
        match self.algorithm {
            Algorithm::Md5 => "md5",
            Algorithm::Sha256 => "sha256",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.algorithm {
            Algorithm::Md5 => DataType::Utf8,
            Algorithm::Sha256 => DataType::Binary,
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let Some(array) = arrays.first() else {
            return datafusion_common::exec_err!("{} takes one argument", self.name());
        };
        let bytes = cast(array, &DataType::Binary)?;
        let values = bytes.as_binary::<i32>().iter();
        let digests: ArrayRef = match self.algorithm {
            Algorithm::Md5 => Arc::new(values.map(|bytes| bytes.map(md5)).collect::<StringArray>()),
            Algorithm::Sha256 => {
                Arc::new(values.map(|bytes| bytes.map(sha2::Sha256::digest)).collect::<BinaryArray>())
            }
        };
        Ok(ColumnarValue::Array(digests))
    }
}

fn md5(bytes: &[u8]) -> String {
    md5::Md5::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
