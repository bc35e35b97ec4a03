//! ISO-8601 text and epoch numbers -> days and microseconds UTC. Years 1 to 9999: what every reader of the lake can hold.

use crate::codec::number;
use crate::types::table::EpochUnit;

/// 0001-01-01T00:00:00Z and 10000-01-01T00:00:00Z.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
const MICROS_END: i64 = 253_402_300_800_000_000;

/// `YYYY-MM-DD`, days since 1970-01-01.
pub fn date(text: &str) -> Result<i32, &'static str> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 {
        return Err("a date is written YYYY-MM-DD");
    }
    calendar_date(bytes)
}

/// `YYYY-MM-DDThh:mm[:ss[.fraction]][Z|±hh[:mm]]`, microseconds since 1970 UTC. Without offset it is UTC. Digits beyond
/// microseconds are cut off. A space or `t` may stand for `T`.
pub fn timestamp(text: &str) -> Result<i64, &'static str> {
    const FORM: &str = "a timestamp is written YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm]";
    let bytes = text.as_bytes();
    if bytes.len() < 16 {
        return Err(FORM);
    }
    let days = calendar_date(&bytes[..10])?;
    if !matches!(bytes[10], b'T' | b't' | b' ') || bytes[13] != b':' {
        return Err(FORM);
    }
    let hour = two_digits(&bytes[11..13]).ok_or(FORM)?;
    let minute = two_digits(&bytes[14..16]).ok_or(FORM)?;
    let mut rest = &bytes[16..];
    let mut second = 0;
    let mut micros = 0;
    if let [b':', after @ ..] = rest {
        second = after.get(..2).and_then(two_digits).ok_or(FORM)?;
        rest = &after[2..];
        if let [b'.', after @ ..] = rest {
            let digits = after.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return Err(FORM);
            }
            for place in 0..6 {
                micros = micros * 10 + after[..digits].get(place).map_or(0, |d| i64::from(d - b'0'));
            }
            rest = &after[digits..];
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err("there is no such time of day");
    }
    let offset_minutes = offset(rest).ok_or(FORM)?;
    let seconds = i64::from(days) * 86_400 + hour * 3600 + minute * 60 + second - offset_minutes * 60;
    in_range(i128::from(seconds) * 1_000_000 + i128::from(micros))
}

/// A number in the column's unit. Fractions count down to a microsecond in seconds and milliseconds; smaller units have
/// none, and nanoseconds below a microsecond are cut off.
pub fn epoch(text: &[u8], unit: EpochUnit) -> Result<i64, &'static str> {
    let micros = match unit {
        EpochUnit::Seconds => number::integer_floor(text, 6),
        EpochUnit::Millis => number::integer_floor(text, 3),
        EpochUnit::Micros => number::integer(text, 0),
        EpochUnit::Nanos => number::integer(text, 0).map(|n| n.div_euclid(1000)),
    };
    match micros {
        Ok(micros) => in_range(micros),
        Err(number::Inexact::Fraction) => Err("microseconds and nanoseconds have no fraction"),
        Err(number::Inexact::TooLarge) => Err(OUT_OF_RANGE),
    }
}

const OUT_OF_RANGE: &str = "outside the years 1 to 9999 (is the unit right?)";

fn in_range(micros: i128) -> Result<i64, &'static str> {
    match i64::try_from(micros) {
        Ok(t) if (MICROS_MIN..MICROS_END).contains(&t) => Ok(t),
        _ => Err(OUT_OF_RANGE),
    }
}

/// Minutes east of UTC: nothing, `Z`, `±hh`, `±hhmm` or `±hh:mm`.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits {
        [_, _] => (two_digits(digits)?, 0),
        [_, _, _, _] => (two_digits(&digits[..2])?, two_digits(&digits[2..])?),
        [_, _, b':', _, _] => (two_digits(&digits[..2])?, two_digits(&digits[3..])?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn calendar_date(bytes: &[u8]) -> Result<i32, &'static str> {
    let read = || {
        if bytes[4] != b'-' || bytes[7] != b'-' {
            return None;
        }
        Some((
            two_digits(&bytes[..2])? * 100 + two_digits(&bytes[2..4])?,
            two_digits(&bytes[5..7])?,
            two_digits(&bytes[8..10])?,
        ))
    };
    let (year, month, day) = read().ok_or("a date is written YYYY-MM-DD")?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    if year == 0 || day == 0 || day > days_in_month {
        return Err("there is no such day");
    }
    // Days before the year in the proleptic Gregorian calendar, then before the month, counted from March so that the
    // leap day comes last; 719_468 days lie between 0000-03-01 and 1970-01-01.
    let year_from_march = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let before_year = year_from_march * 365 + year_from_march / 4 - year_from_march / 100 + year_from_march / 400;
    let before_month = (month_from_march * 153 + 2) / 5;
    Ok((before_year + before_month + day - 1 - 719_468) as i32)
}

fn two_digits(bytes: &[u8]) -> Option<i64> {
    let [a @ b'0'..=b'9', b @ b'0'..=b'9'] = bytes else { return None };
    Some(i64::from(a - b'0') * 10 + i64::from(b - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_timestamp_is_refused() {
        for text in [
            "",
            "2026-11-22",
            "2026-11-22T",
            "2026-11-22T10",
            "2026-11-22T10:1",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T10:60:00Z",
            "2026-11-22T10:15:60Z",
            "2026-11-22T10:15:00.Z",
            "2026-11-22T10:15:00.5x",
            "2026-11-22T10:15:00+1",
            "2026-11-22T10:15:00+24:00",
            "2026-11-22T10:15:00 Z",
            "2026/11/22T10:15:00Z",
            "20261122T101500Z",
            "26-11-22T10:15:00Z",
            "+2026-11-22T10:15",
            "2026-11-22T10:15:00Zjunk",
            "0001-01-01T00:00:00+01:00",
            "２026-11-22T10:15",
            "2026-11-22é10:15:00Z",
        ] {
            assert!(timestamp(text).is_err(), "{text} was taken as {:?}", timestamp(text));
        }
        for text in ["", "2026-1-1", "2026-11-22Z", "2026-02-30", "2026-11-2é", "11/22/2026"] {
            assert!(date(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_are_microseconds_utc() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00", 0),
            ("1970-01-01 00:00:01", 1_000_000),
            ("1969-12-31T23:59:59.9999999Z", -1),
            ("2000-02-29T00:00:00z", 951_782_400_000_000),
            ("2026-11-22T10:15:00.123456789Z", 1_795_342_500_123_456),
            ("2026-11-22T10:15:00.5", 1_795_342_500_500_000),
            ("2026-11-22T12:15:00+02:00", 1_795_342_500_000_000),
            ("2026-11-22T12:15:00+0200", 1_795_342_500_000_000),
            ("2026-11-22T05:15:00-05", 1_795_342_500_000_000),
            ("0001-01-01T00:00:00Z", MICROS_MIN),
            ("9999-12-31T23:59:59.999999Z", MICROS_END - 1),
        ];
        for (text, micros) in cases {
            assert_eq!(timestamp(text), Ok(micros), "{text}");
        }
    }

    #[test]
    fn dates_agree_with_chrono() {
        let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");
        let first = chrono::NaiveDate::from_ymd_opt(1, 1, 1).expect("a date");
        for day in first.iter_days().step_by(97).take_while(|d| chrono::Datelike::year(d) < 10_000) {
            assert_eq!(date(&day.to_string()), Ok(day.signed_duration_since(epoch).num_days() as i32), "{day}");
        }
    }

    #[test]
    fn epoch_numbers_are_exact() {
        use EpochUnit::*;
        let cases = [
            ("1795342500", Seconds, Ok(1_795_342_500_000_000)),
            ("1795342500.1234567", Seconds, Ok(1_795_342_500_123_456)),
            ("1795342500123", Millis, Ok(1_795_342_500_123_000)),
            ("1795342500123.4569", Millis, Ok(1_795_342_500_123_456)),
            ("1795342500123456", Micros, Ok(1_795_342_500_123_456)),
            ("1795342500123456789", Nanos, Ok(1_795_342_500_123_456)),
            ("-1", Nanos, Ok(-1)),
        ];
        for (text, unit, want) in cases {
            assert_eq!(epoch(text.as_bytes(), unit), want, "{text} {unit:?}");
        }
        assert!(epoch(b"1.5", Micros).is_err());
        assert_eq!(epoch(b"1795342500123", Seconds), Err(OUT_OF_RANGE));
        assert_eq!(epoch(b"1e400", Millis), Err(OUT_OF_RANGE));
    }
}
