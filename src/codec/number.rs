//! Exact integers and decimals from the text of a JSON number; no float on the way.

/// Why a number is not the integer asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inexact {
    Fraction,
    TooLarge,
}

/// significand * 10^exponent. The significand has no trailing zero, so an exponent below 0 means a fraction.
struct Exact {
    negative: bool,
    significand: u128,
    exponent: i64,
}

/// The number times 10^`scale`, if that is an integer. `text` is a JSON number (the parser has checked its grammar).
pub fn integer(text: &[u8], scale: i64) -> Result<i128, Inexact> {
    if scale == 0
        && let Some(small) = small_integer(text)
    {
        return Ok(small as i128);
    }
    let exact = parse(text)?;
    if exact.significand == 0 {
        return Ok(0);
    }
    let exponent = exact.exponent.saturating_add(scale);
    if exponent < 0 {
        return Err(Inexact::Fraction);
    }
    signed(exact.negative, times_power(exact.significand, exponent).ok_or(Inexact::TooLarge)?)
}

/// The number times 10^`scale`, rounded down (towards the past, when it is a time).
pub fn integer_floor(text: &[u8], scale: i64) -> Result<i128, Inexact> {
    if scale == 0
        && let Some(small) = small_integer(text)
    {
        return Ok(small as i128);
    }
    let exact = parse(text)?;
    let exponent = exact.exponent.saturating_add(scale);
    if exponent >= 0 {
        if exact.significand == 0 {
            return Ok(0);
        }
        return signed(exact.negative, times_power(exact.significand, exponent).ok_or(Inexact::TooLarge)?);
    }
    // 10^39 exceeds u128: such a divisor leaves 0, and a remainder unless the number is 0.
    let (quotient, rest) = match u32::try_from(-exponent).ok().and_then(|e| 10u128.checked_pow(e)) {
        Some(divisor) => (exact.significand / divisor, exact.significand % divisor),
        None => (0, exact.significand),
    };
    let rounded = if exact.negative && rest != 0 { quotient + 1 } else { quotient };
    signed(exact.negative, rounded)
}

/// Up to 18 digits and nothing else: almost every number of a device.
fn small_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -value } else { value })
}

fn parse(text: &[u8]) -> Result<Exact, Inexact> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    let mut significand = 0u128;
    // Zeros wait until another digit follows, so that 5.000…0 of any length stays exact.
    let mut zeros = 0i64;
    let mut exponent = 0i64;
    let mut in_fraction = false;
    let mut place = 0;
    while let Some(&byte) = text.get(place) {
        place += 1;
        match byte {
            b'.' => in_fraction = true,
            b'e' | b'E' => {
                exponent = exponent.saturating_add(written_exponent(&text[place..]));
                break;
            }
            b'0' => {
                zeros += 1;
                exponent -= i64::from(in_fraction);
            }
            digit => {
                let scaled = times_power(significand, zeros + 1).ok_or(Inexact::TooLarge)?;
                significand = scaled.checked_add(u128::from(digit - b'0')).ok_or(Inexact::TooLarge)?;
                zeros = 0;
                exponent -= i64::from(in_fraction);
            }
        }
    }
    Ok(Exact { negative, significand, exponent: exponent.saturating_add(zeros) })
}

fn written_exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let size = digits.iter().fold(0i64, |n, d| n.saturating_mul(10).saturating_add(i64::from(d - b'0')));
    if negative { -size } else { size }
}

fn times_power(significand: u128, exponent: i64) -> Option<u128> {
    if significand == 0 {
        return Some(0);
    }
    significand.checked_mul(10u128.checked_pow(u32::try_from(exponent).ok()?)?)
}

fn signed(negative: bool, magnitude: u128) -> Result<i128, Inexact> {
    let value = i128::try_from(magnitude).map_err(|_| Inexact::TooLarge)?;
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_or_refused() {
        use Inexact::*;
        let cases: &[(&str, i64, Result<i128, Inexact>)] = &[
            ("1.7", 0, Err(Fraction)),
            ("1e-1", 0, Err(Fraction)),
            ("1e400", 0, Err(TooLarge)),
            ("1e99999999999999999999", 0, Err(TooLarge)),
            ("1e-99999999999999999999", 0, Err(Fraction)),
            ("123456789012345678901234567890123456789012", 0, Err(TooLarge)),
            ("0.001", 2, Err(Fraction)),
            ("5.0", 0, Ok(5)),
            ("1e2", 0, Ok(100)),
            ("-0", 0, Ok(0)),
            ("0e99999999999999999999", 0, Ok(0)),
            ("1200e-2", 0, Ok(12)),
            ("5.0000000000000000000000000000000000000000000000000000", 0, Ok(5)),
            ("9223372036854775807", 0, Ok(i64::MAX as i128)),
            ("-9223372036854775808", 0, Ok(i64::MIN as i128)),
            ("12.34", 2, Ok(1234)),
            ("-12.3", 2, Ok(-1230)),
            ("0.10", 1, Ok(1)),
        ];
        for (text, scale, want) in cases {
            assert_eq!(integer(text.as_bytes(), *scale), *want, "{text} at scale {scale}");
        }
    }

    #[test]
    fn floor_rounds_towards_the_past() {
        let cases: &[(&str, i64, i128)] = &[
            ("1.9999999", 6, 1_999_999),
            ("-0.0000001", 6, -1),
            ("-1.5", 6, -1_500_000),
            ("1e-500", 6, 0),
            ("-1e-500", 6, -1),
            ("1767225600.123456789", 6, 1_767_225_600_123_456),
            ("1500", -3, 1),
            ("-1500", -3, -2),
        ];
        for (text, scale, want) in cases {
            assert_eq!(integer_floor(text.as_bytes(), *scale), Ok(*want), "{text} at scale {scale}");
        }
    }
}
