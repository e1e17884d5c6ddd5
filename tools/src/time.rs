//! Times as people write them, without a calendar library: UTC only.

use std::time::{SystemTime, UNIX_EPOCH};

const SECOND_US: u64 = 1_000_000;
const DAY_SECONDS: u64 = 86_400;

/// Microseconds since the epoch as `2026-11-23T10:00:00.123456Z`.
pub fn show(time_us: u64) -> String {
    let seconds = time_us / SECOND_US;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!(
        "{}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        day(time_us),
        time_us % SECOND_US
    )
}

/// The day of a time, as `2026-11-23`.
pub fn day(time_us: u64) -> String {
    let (year, month, day) = civil(time_us / SECOND_US / DAY_SECONDS);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
///
/// Counts from 1 March, so that the leap day is a year's last day.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01, and the lengths of 400 and 100 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Day since 1970-01-01 of a date; `None` before that or for a date that is none.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = year - u64::from(month <= 2);
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    // 31 February and the like come back as another day.
    days.checked_sub(719_468)
        .filter(|days| civil(*days) == (year, month, day))
}

/// Reads an RFC 3339 time in UTC, a day, seconds since the epoch, or an age
/// (`90s`, `15m`, `2h`, `3d`); gives microseconds since the epoch.
pub fn parse(text: &str) -> Result<u64, String> {
    parse_age(text)
        .or_else(|| text.parse::<u64>().ok()?.checked_mul(SECOND_US))
        .or_else(|| parse_date(text))
        .ok_or_else(|| {
            "write 2026-11-23T10:00:00Z, 2026-11-23, seconds since the epoch, or 90s, 15m, 2h, 3d"
                .to_owned()
        })
}

#[allow(clippy::disallowed_methods, reason = "a tool, which nothing replays")]
fn parse_age(text: &str) -> Option<u64> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY_SECONDS,
        _ => return None,
    };
    let age = count
        .parse::<u64>()
        .ok()?
        .checked_mul(seconds)?
        .checked_mul(SECOND_US)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()?
        .as_micros() as u64;
    now.checked_sub(age)
}

fn parse_date(text: &str) -> Option<u64> {
    let (date, clock) = match text.split_once('T') {
        Some((date, clock)) => (date, Some(clock.strip_suffix('Z')?)),
        None => (text, None),
    };
    let numbers = |text: &str, separator: char| -> Option<Vec<u64>> {
        text.split(separator)
            .map(|number| number.parse().ok())
            .collect()
    };
    let [year, month, day] = numbers(date, '-')?[..] else {
        return None;
    };
    let mut time_us = days_of(year, month, day)? * DAY_SECONDS * SECOND_US;
    if let Some(clock) = clock {
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let [hour, minute, second] = numbers(clock, ':')?[..] else {
            return None;
        };
        if hour > 23 || minute > 59 || second > 59 || fraction.len() > 6 {
            return None;
        }
        time_us += (hour * 3600 + minute * 60 + second) * SECOND_US;
        time_us += format!("{fraction:0<6}").parse::<u64>().ok()?;
    }
    Some(time_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_read_and_show() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-23T10:00:00Z", 1_795_428_000),
        ] {
            let time_us = parse(text).unwrap();
            assert_eq!(time_us, seconds * SECOND_US, "{text}");
            assert_eq!(show(time_us), text.replace('Z', ".000000Z"));
        }
        assert_eq!(
            parse("2026-11-23T10:00:00.5Z").unwrap() % SECOND_US,
            500_000
        );
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for days in 0..146_097 {
            let (year, month, day) = civil(days);
            assert_eq!(days_of(year, month, day), Some(days));
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-02-30",
            "2026-13-01",
            "1969-12-31",
            "2026-11-23T25:00:00Z",
            "é",
            "99999999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
