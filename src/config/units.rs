//! Durations and sizes as a configuration writes them.
//!
//! Units are PostgreSQL's: <https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES>.
//! A bare number is seconds or bytes, as in PgBouncer.

use std::time::Duration;

/// The longest duration that is taken, in seconds: what PgBouncer's 32-bit settings can hold, and short enough that adding
/// it to a point in time never overflows.
const LONGEST: u64 = i32::MAX as u64;

/// Units of durations, in microseconds; the longest first.
const DURATION_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Units of sizes, in bytes; the largest first.
const SIZE_UNITS: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

/// Reads a duration: `30s`, `500ms`, `5min`, `1h`, `1.5` (seconds). The finest unit is a microsecond.
///
/// # Errors
/// Says what is wrong with the text; the text itself is quoted.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it like \"500ms\", \"30s\", \"5min\" or \"1h\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let micros = match unit {
        "" => 1_000_000,
        // Minutes to some and months to others: PostgreSQL refuses it too.
        "m" => {
            return Err(format!("{text:?} has the unit \"m\"; write \"min\" for minutes or \"ms\" for milliseconds"));
        }
        unit => DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
    };
    let total = scaled(number, micros).ok_or_else(wrong)?;
    if total > LONGEST * 1_000_000 {
        return Err(format!("{text:?} is too long; the longest is {LONGEST} seconds"));
    }
    Ok(Duration::from_micros(total))
}

/// Writes a duration so that [`parse_duration`] reads it back: the longest unit that leaves a whole number. What is finer
/// than a microsecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        return "0s".to_owned();
    }
    let fits = DURATION_UNITS.iter().find(|(_, size)| micros.is_multiple_of(u128::from(*size)));
    let (name, size) = fits.copied().unwrap_or(("us", 1));
    format!("{}{name}", micros / u128::from(size))
}

/// Writes a duration as PgBouncer's SHOW CONFIG does: a number of seconds.
#[must_use]
pub fn format_seconds(duration: Duration) -> String {
    let (seconds, micros) = (duration.as_secs(), duration.subsec_micros());
    if micros == 0 {
        return seconds.to_string();
    }
    format!("{seconds}.{micros:06}").trim_end_matches('0').to_owned()
}

/// Reads a size in bytes: `64kB`, `1MB`, `1.5GB`, `65536`. A kB is 1024 bytes; upper and lower case are the same.
///
/// # Errors
/// Says what is wrong with the text; the text itself is quoted.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write it like \"65536\", \"64kB\" or \"1MB\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let bytes = match unit {
        "" => 1,
        unit => SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
    };
    scaled(number, bytes).ok_or_else(wrong)
}

/// Writes a size so that [`parse_size`] reads it back: the largest unit that leaves a whole number.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    let fits = SIZE_UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size));
    let (name, size) = fits.copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / size)
}

/// Splits `1.5 min` into `1.5` and `min`; none when it does not begin with a digit.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    number.starts_with(|c: char| c.is_ascii_digit()).then(|| (number, unit.trim_start()))
}

/// `number` times `unit`, exact to the last digit; none when it does not fit or is not a number. Digits of the fraction that
/// are smaller than one are cut off.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() && fraction.len() <= 18 => (whole, fraction),
        Some(_) => return None,
        None => (number, "0"),
    };
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    let digits = u32::try_from(fraction.len()).ok()?;
    let part = fraction.parse::<u128>().ok()?.checked_mul(u128::from(unit))? / 10_u128.checked_pow(digits)?;
    whole.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("120", 120_000),
            ("0", 0),
            ("0.5", 500),
            ("1.25s", 1250),
            (" 3 s ", 3000),
            ("3000us", 3),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn bad_durations_are_refused() {
        for text in ["", "s", "-1", "1x", "1 s s", "1..5", "1.", ".5", "1.2.3", "99999999999999999999", "1S", "٣s"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("is not a duration"), "{text}: {error}");
        }
        assert_eq!(
            parse_duration("5m").unwrap_err(),
            "\"5m\" has the unit \"m\"; write \"min\" for minutes or \"ms\" for milliseconds"
        );
        assert_eq!(parse_duration("2147483647"), Ok(Duration::from_secs(2_147_483_647)));
        assert_eq!(
            parse_duration("2147483648").unwrap_err(),
            "\"2147483648\" is too long; the longest is 2147483647 seconds"
        );
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("65536", 65_536),
            ("64kB", 65_536),
            ("64KB", 65_536),
            ("1MB", 1 << 20),
            ("1.5kB", 1536),
            ("1GB", 1 << 30),
            ("2 TB", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "kB", "1k", "-1", "99999999TB", "1 0"] {
            assert!(parse_size(text).unwrap_err().contains("is not a size"), "{text}");
        }
    }

    #[test]
    fn seconds_are_written_as_pgbouncer_does() {
        assert_eq!(format_seconds(Duration::from_secs(120)), "120");
        assert_eq!(format_seconds(Duration::ZERO), "0");
        assert_eq!(format_seconds(Duration::from_millis(500)), "0.5");
        assert_eq!(format_seconds(Duration::from_micros(1_000_001)), "1.000001");
    }

    #[test]
    fn the_longest_whole_unit_is_written() {
        assert_eq!(format_duration(Duration::from_secs(3600)), "1h");
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(format_size(1 << 30), "1GB");
        assert_eq!(format_size(1536), "1536B");
    }

    proptest! {
        #[test]
        fn durations_round_trip(micros in 0..=LONGEST * 1_000_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_duration(&format_seconds(duration)), Ok(duration));
        }

        #[test]
        fn whole_durations_round_trip(seconds in 0..=LONGEST) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes: u64, unit in 0_u32..5) {
            let bytes = bytes >> (10 * unit) << (10 * unit);
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "[0-9.kKmMsShdB -]{0,24}|.*") {
            // A message quotes what it refuses; nothing else is known of a text that may be anything.
            for error in [parse_duration(&text).err(), parse_size(&text).err()].into_iter().flatten() {
                let quoted = format!("{text:?}");
                prop_assert!(error.starts_with(&quoted), "{}", error);
            }
        }
    }
}
