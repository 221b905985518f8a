//! `geo_distance(latitude, longitude, latitude, longitude)`: the distance of two places on the earth's surface, in metres.

use std::sync::Arc;

use arrow::array::{AsArray, Float64Array};
use arrow::datatypes::DataType;
use datafusion_common::{Result, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// The earth's mean radius in metres, (2a + b) / 3 of the ellipsoid GRS 80.
const RADIUS: f64 = 6_371_008.8;

/// The functions of this module.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let signature = Signature::exact(vec![DataType::Float64; 4], Volatility::Immutable);
    vec![Arc::new(ScalarUDF::new_from_impl(GeoDistance { signature }))]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GeoDistance {
    signature: Signature,
}

impl ScalarUDFImpl for GeoDistance {
    fn name(&self) -> &str {
        "geo_distance"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let degrees: Vec<&Float64Array> = arrays.iter().map(|array| array.as_primitive()).collect();
        let [from_latitude, from_longitude, to_latitude, to_longitude] = degrees.as_slice() else {
            return exec_err!("geo_distance takes two latitudes and two longitudes");
        };
        let from = from_latitude.iter().zip(from_longitude.iter());
        let to = to_latitude.iter().zip(to_longitude.iter());
        let distances = from.zip(to).map(|places| match places {
            ((Some(latitude), Some(longitude)), (Some(to_latitude), Some(to_longitude))) => {
                distance((latitude, longitude), (to_latitude, to_longitude)).map(Some)
            }
            _ => Ok(None),
        });
        Ok(ColumnarValue::Array(Arc::new(distances.collect::<Result<Float64Array>>()?)))
    }
}

/// The great-circle distance of two places, each latitude and longitude in degrees, by the haversine formula (R. W. Sinnott,
/// "Virtues of the Haversine", Sky and Telescope 68, 1984).
fn distance(from: (f64, f64), to: (f64, f64)) -> Result<f64> {
    if let Some(latitude) = [from.0, to.0].into_iter().find(|latitude| latitude.abs() > 90.0) {
        return exec_err!("a latitude lies between -90 and 90 degrees, this one is {latitude}");
    }
    let half_chord = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let scale = from.0.to_radians().cos() * to.0.to_radians().cos();
    let haversine = half_chord(to.0 - from.0) + scale * half_chord(to.1 - from.1);
    Ok(2.0 * RADIUS * haversine.clamp(0.0, 1.0).sqrt().asin())
}
