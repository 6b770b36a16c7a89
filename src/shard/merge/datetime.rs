//! Reads dates and times as PostgreSQL writes them under DateStyle ISO, into the numbers that its comparisons use.
//!
//! See <https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-OUTPUT>.

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Days since 2000-01-01; the infinities are the ends of i64. None: not a date.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, bc) = before_christ(text);
        let (days, rest) = day(text, bc)?;
        rest.is_empty().then_some(days)
    })
}

/// Microseconds since 2000-01-01, in UTC if the text has a zone; the infinities are the ends of i64. `zone`: whether it has one.
pub(super) fn timestamp(text: &[u8], zone: bool) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, bc) = before_christ(text);
        let (days, rest) = day(text, bc)?;
        let (micros, rest) = clock(rest.strip_prefix(b" ")?)?;
        let east = if zone { offset(rest)? } else { rest.is_empty().then_some(0)? };
        days.checked_mul(DAY)?.checked_add(micros - east * SECOND)
    })
}

/// Microseconds since midnight.
pub(super) fn time(text: &[u8]) -> Option<i64> {
    let (micros, rest) = clock(text)?;
    rest.is_empty().then_some(micros)
}

/// Microseconds since midnight in UTC, and the zone in seconds west of it.
pub(super) fn time_with_zone(text: &[u8]) -> Option<(i64, i32)> {
    let (micros, rest) = clock(text)?;
    let east = offset(rest)?;
    Some((micros - east * SECOND, i32::try_from(-east).ok()?))
}

/// An infinity of a date or a timestamp.
fn infinity(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => Some(i64::MAX),
        b"-infinity" => Some(i64::MIN),
        _ => None,
    }
}

fn before_christ(text: &[u8]) -> (&[u8], bool) {
    text.strip_suffix(b" BC").map_or((text, false), |text| (text, true))
}

/// A number of at least `least` digits, and what follows it.
fn number(text: &[u8], least: usize) -> Option<(i64, &[u8])> {
    let length = text.iter().take_while(|c| c.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    if length < least || length > 9 {
        return None;
    }
    Some((digits.iter().fold(0, |sum, c| sum * 10 + i64::from(c - b'0')), rest))
}

/// `year-month-day` as days since 2000-01-01.
fn day(text: &[u8], bc: bool) -> Option<(i64, &[u8])> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(rest.strip_prefix(b"-")?, 2)?;
    let (day, rest) = number(rest.strip_prefix(b"-")?, 2)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // 1 BC is the year 0 of the proleptic Gregorian calendar.
    let year = if bc { 1 - year } else { year };
    // Years that begin in March have their leap day at the end.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some((days - 730_425, rest))
}

/// `hours:minutes:seconds[.fraction]` in microseconds.
fn clock(text: &[u8]) -> Option<(i64, &[u8])> {
    let (hours, rest) = number(text, 2)?;
    let (minutes, rest) = number(rest.strip_prefix(b":")?, 2)?;
    let (seconds, rest) = number(rest.strip_prefix(b":")?, 2)?;
    let whole = ((hours * 60 + minutes) * 60 + seconds) * SECOND;
    let Some(fraction) = rest.strip_prefix(b".") else { return Some((whole, rest)) };
    let (value, after) = number(fraction, 1)?;
    let decimals = u32::try_from(fraction.len() - after.len()).ok().filter(|count| *count <= 6)?;
    Some((whole + value * 10_i64.pow(6 - decimals), after))
}

/// `+hours[:minutes[:seconds]]` in seconds east of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    let sign = match text.first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (mut seconds, mut rest) = number(&text[1..], 2).map(|(hours, rest)| (hours * 3600, rest))?;
    for unit in [60, 1] {
        if let Some(part) = rest.strip_prefix(b":") {
            let (value, after) = number(part, 2)?;
            seconds += value * unit;
            rest = after;
        }
    }
    rest.is_empty().then_some(sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_2000() {
        for (text, days) in [
            ("2000-01-01", 0),
            ("1999-12-31", -1),
            ("2000-02-29", 59),
            ("2000-03-01", 60),
            ("1970-01-01", -10_957),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("4714-11-24 BC", -2_451_545),
            ("5874897-12-31", 2_145_031_948),
            ("infinity", i64::MAX),
        ] {
            assert_eq!(date(text.as_bytes()), Some(days), "{text}");
        }
        for wrong in ["", "2000-01", "01/02/2000", "2000-13-01", "2000-01-01 ", "2000-01-01x", "today", "Infinity"] {
            assert_eq!(date(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn moments_are_of_utc() {
        let moment = |text: &str| timestamp(text.as_bytes(), true);
        assert_eq!(moment("2000-01-01 00:00:00+00"), Some(0));
        assert_eq!(moment("2000-01-01 02:00:00.5+02"), Some(500_000));
        assert_eq!(moment("1999-12-31 18:30:00.000001-05:30"), Some(1));
        assert_eq!(moment("1890-01-01 00:00:28+00:00:28"), moment("1890-01-01 00:00:00+00"));
        assert_eq!(moment("2000-01-01 00:00:00"), None);
        assert_eq!(timestamp(b"2000-01-01 00:00:00+00", false), None);
        assert_eq!(timestamp(b"294276-12-31 23:59:59.999999", false), Some(9_223_371_331_199_999_999));
        assert_eq!(timestamp(b"4714-11-24 00:00:00 BC", false), Some(-2_451_545 * DAY));
        assert_eq!(time(b"24:00:00"), Some(DAY));
        assert_eq!(time_with_zone(b"10:00:00+02"), Some((8 * 3600 * SECOND, -7200)));
        assert_eq!(time(b"10:00:00.1234567"), None);
    }
}
