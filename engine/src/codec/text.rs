//! Values as text: timestamps, dates and decimals, as JSON, headers and CSV carry them.
//!
//! Writing and reading are exact inverses over the whole range of each type.

/// Days since 1970 of a date of the Gregorian calendar; the date has to exist.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years start in March here, so that the day that comes and goes is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day since 1970.
fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Reads text from its beginning.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn accept(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first().filter(|(first, _)| bytes.contains(first))?;
        self.0 = rest;
        Some(*first)
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
        digits.iter().try_fold(0, |number, byte| Some(number * 10 + digit(byte)?))
    }

    /// `YYYY-MM-DD`; years of more than four digits have a sign (ISO 8601).
    fn days(&mut self) -> Option<i64> {
        let year = match self.accept(b"+-") {
            None => self.digits(4)?,
            Some(sign) => {
                let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let year = if (4..=9).contains(&count) { self.digits(count)? } else { return None };
                if sign == b'-' { -year } else { year }
            }
        };
        self.accept(b"-")?;
        let month = self.digits(2).filter(|month| (1..=12).contains(month))?;
        self.accept(b"-")?;
        let day = self.digits(2).filter(|day| (1..=days_in_month(year, month)).contains(day))?;
        Some(days_from_civil(year, month, day))
    }
}

/// Milliseconds since 1970 of an RFC 3339 text with any offset. Digits beyond the millisecond are cut off; second 60 is
/// the first of the next minute.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.days()?;
    cursor.accept(b"Tt ")?;
    let hour = cursor.digits(2).filter(|hour| *hour < 24)?;
    cursor.accept(b":")?;
    let minute = cursor.digits(2).filter(|minute| *minute < 60)?;
    cursor.accept(b":")?;
    let second = cursor.digits(2).filter(|second| *second <= 60)?;
    let mut millis = 0;
    if cursor.accept(b".").is_some() {
        let count = cursor.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        millis = match count {
            0 => return None,
            1 => cursor.digits(1)? * 100,
            2 => cursor.digits(2)? * 10,
            _ => cursor.digits(3)?,
        };
        cursor.0 = cursor.0.get(count.saturating_sub(3)..)?;
    }
    let offset = match cursor.accept(b"Zz+-")? {
        sign @ (b'+' | b'-') => {
            let hours = cursor.digits(2).filter(|hours| *hours < 24)?;
            cursor.accept(b":")?;
            let minutes = hours * 60 + cursor.digits(2).filter(|minutes| *minutes < 60)?;
            if sign == b'+' { minutes } else { -minutes }
        }
        _ => 0,
    };
    if !cursor.0.is_empty() {
        return None;
    }
    let seconds = (days * 24 + hour) * 3_600 + (minute - offset) * 60 + second;
    // The outermost seconds of the range lie partly outside of it: in 128 bits the sum cannot overflow on the way.
    i64::try_from(i128::from(seconds) * 1_000 + i128::from(millis)).ok()
}

/// Days since 1970 of `YYYY-MM-DD`.
pub fn parse_date(text: &str) -> Option<i32> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.days()?;
    if cursor.0.is_empty() { i32::try_from(days).ok() } else { None }
}

fn push_digits(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10i64.pow(place) % 10) as u8);
    }
}

fn write_days(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    if (0..=9_999).contains(&year) {
        push_digits(out, year, 4);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        push_digits(out, year.abs(), 9);
    }
    out.push(b'-');
    push_digits(out, i64::from(month), 2);
    out.push(b'-');
    push_digits(out, i64::from(day), 2);
}

/// Appends a date as `YYYY-MM-DD`; years beyond 0 to 9999 with a sign and nine digits.
pub fn write_date(days: i32, out: &mut Vec<u8>) {
    write_days(i64::from(days), out);
}

/// Appends a timestamp as RFC 3339 with milliseconds and `Z`; years beyond 0 to 9999 as in [`write_date`].
pub fn write_timestamp(millis: i64, out: &mut Vec<u8>) {
    const DAY: i64 = 86_400_000;
    write_days(millis.div_euclid(DAY), out);
    let time = millis.rem_euclid(DAY);
    for (mark, number, width) in [
        (b'T', time / 3_600_000, 2),
        (b':', time / 60_000 % 60, 2),
        (b':', time / 1_000 % 60, 2),
        (b'.', time % 1_000, 3),
    ] {
        out.push(mark);
        push_digits(out, number, width);
    }
    out.push(b'Z');
}

/// Why a text is no decimal of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecimalError {
    /// It is no number.
    Syntax,
    /// It has digits that the type would lose.
    Inexact,
    /// It is too large for the type.
    Range,
}

/// The exact value of a decimal number (exponents are understood), as digits of which `scale` come after the point.
pub fn parse_decimal(text: &str, precision: u8, scale: i8) -> Result<i128, DecimalError> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(DecimalError::Syntax);
            }
            // Beyond this any number but zero is out of range, or loses digits.
            let size = digits.parse::<i64>().unwrap_or(i64::MAX).min(1 << 40);
            (mantissa, if exponent.starts_with('-') { -size } else { size })
        }
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let mut digits = whole.bytes().chain(fraction.bytes());
    if whole.is_empty() || fraction.is_empty() || !digits.all(|byte| byte.is_ascii_digit()) {
        return Err(DecimalError::Syntax);
    }
    // Zeros at either end carry no value, and might not fit; those at the right of whole numbers count as exponent.
    let fraction = fraction.trim_end_matches('0');
    let (kept, dropped) = if fraction.is_empty() {
        let kept = whole.trim_end_matches('0');
        (kept, whole.len() - kept.len())
    } else {
        (whole, 0)
    };
    let mut number: i128 = 0;
    for byte in kept.bytes().chain(fraction.bytes()) {
        let next = number.checked_mul(10).and_then(|number| number.checked_add(i128::from(byte - b'0')));
        number = next.ok_or(DecimalError::Range)?;
    }
    if number == 0 {
        return Ok(0);
    }
    let shift = exponent + dropped as i64 - fraction.len() as i64 + i64::from(scale);
    let power = |places: i64| u32::try_from(places).ok().and_then(|places| 10i128.checked_pow(places));
    let number = if shift >= 0 {
        power(shift).and_then(|power| number.checked_mul(power)).ok_or(DecimalError::Range)?
    } else {
        match power(-shift) {
            Some(power) if number % power == 0 => number / power,
            _ => return Err(DecimalError::Inexact),
        }
    };
    match power(i64::from(precision)) {
        Some(limit) if number >= limit => Err(DecimalError::Range),
        _ => Ok(if negative { -number } else { number }),
    }
}

/// The same decimal with another number of digits after the point.
///
/// # Errors
/// If it would lose digits, or has more than `precision`.
pub fn rescaled(number: i128, from: i8, to: i8, precision: u8) -> Result<i128, String> {
    let power = |places: i16| 10i128.checked_pow(places.unsigned_abs().into());
    let places = i16::from(to) - i16::from(from);
    let scaled = if places >= 0 {
        if number == 0 { Some(0) } else { power(places).and_then(|power| number.checked_mul(power)) }
    } else {
        match power(places) {
            Some(power) if number % power == 0 => Some(number / power),
            None if number == 0 => Some(0),
            _ => return Err(format!("found a decimal with more than {to} digits after the point")),
        }
    };
    let limit = 10u128.checked_pow(precision.into());
    let fits = |number: &i128| limit.is_none_or(|limit| number.unsigned_abs() < limit);
    scaled.filter(fits).ok_or_else(|| format!("found a decimal of more than {precision} digits"))
}

/// Appends a decimal, with all digits after the point.
pub fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    let digits = value.unsigned_abs().to_string();
    if value < 0 {
        out.push(b'-');
    }
    let places = usize::from(scale.max(0).unsigned_abs());
    if places == 0 {
        out.extend_from_slice(digits.as_bytes());
        if value != 0 {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        return;
    }
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, fraction) = padded.split_at(padded.len() - places);
    out.extend_from_slice(whole.as_bytes());
    out.push(b'.');
    out.extend_from_slice(fraction.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn timestamp_text(millis: i64) -> String {
        let mut out = Vec::new();
        write_timestamp(millis, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_with_offsets_are_utc() {
        let utc = parse_timestamp("2026-01-01T00:00:00Z").unwrap();
        assert_eq!(utc, 1_767_225_600_000);
        assert_eq!(parse_timestamp("2026-01-01T02:30:00+02:30"), Some(utc));
        assert_eq!(parse_timestamp("2025-12-31t19:00:00.000-05:00"), Some(utc));
        assert_eq!(parse_timestamp("2026-01-01 00:00:00.1234567z"), Some(utc + 123));
        assert_eq!(parse_timestamp("2026-01-01T00:00:00.5Z"), Some(utc + 500));
        assert_eq!(parse_timestamp("2025-12-31T23:59:60Z"), Some(utc));
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+0200",
            "2026-01-01T00:00:00Z ",
            "+2026-1-1T00:00:00Z",
            "+999999999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn the_whole_range_of_timestamps_and_dates_comes_back() {
        for millis in [i64::MIN, i64::MAX, 0, -1, -62_167_219_200_001, 253_402_300_800_000] {
            assert_eq!(parse_timestamp(&timestamp_text(millis)), Some(millis), "{}", timestamp_text(millis));
        }
        for days in [i32::MIN, i32::MAX, 0, -1, -719_529] {
            let mut out = Vec::new();
            write_date(days, &mut out);
            assert_eq!(parse_date(std::str::from_utf8(&out).unwrap()), Some(days));
        }
        assert_eq!(timestamp_text(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(parse_decimal("12.5", 10, 2), Ok(1_250));
        assert_eq!(parse_decimal("-0.01", 10, 2), Ok(-1));
        assert_eq!(parse_decimal("1.2500000000000000000000000000000000000000000000", 10, 2), Ok(125));
        assert_eq!(parse_decimal("12e-1", 10, 2), Ok(120));
        assert_eq!(parse_decimal("1.005", 10, 2), Err(DecimalError::Inexact));
        assert_eq!(parse_decimal("99999999.99", 10, 2), Ok(9_999_999_999));
        assert_eq!(parse_decimal("100000000", 10, 2), Err(DecimalError::Range));
        assert_eq!(parse_decimal("1e999999999999999999999", 10, 2), Err(DecimalError::Range));
        assert_eq!(parse_decimal("0e999999999999999999999", 10, 2), Ok(0));
        assert_eq!(parse_decimal("1e-99999", 10, 2), Err(DecimalError::Inexact));
        assert_eq!(parse_decimal("1000000000000000000000000000000000000000000000e-44", 10, 0), Ok(10));
        for text in ["", ".5", "5.", "1e", "1e+", "--1", "1.2.3", "x", "1_0"] {
            assert_eq!(parse_decimal(text, 10, 2), Err(DecimalError::Syntax), "{text}");
        }
    }

    proptest! {
        #[test]
        fn timestamps_read_and_write_as_chrono_does(millis in -62_167_219_200_000i64..253_402_300_800_000) {
            let chrono = DateTime::from_timestamp_millis(millis).unwrap();
            let text = timestamp_text(millis);
            prop_assert_eq!(&text, &chrono.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
            prop_assert_eq!(parse_timestamp(&text), Some(millis));
        }

        #[test]
        fn decimals_come_back(value in -99_999_999_999_999_999_999i128..99_999_999_999_999_999_999, scale in -3i8..=20) {
            let mut out = Vec::new();
            write_decimal(value, scale, &mut out);
            prop_assert_eq!(parse_decimal(std::str::from_utf8(&out).unwrap(), 38, scale), Ok(value));
        }
    }
}
