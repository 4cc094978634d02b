// SPDX-License-Identifier: GPL-3.0-only
//! Times and addresses as people write them. A time needs its unit; it is a whole number of microseconds, the
//! resolution of the interface.

/// "30ms", "100us", "0.1ms", "1s" -> microseconds.
pub fn parse_us(text: &str) -> Result<u32, String> {
    let wrong =
        || format!("'{text}' is not a time: expected a number and us, ms or s, as in 30ms, 100us, 0.1ms");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
    let scale: u64 = match unit {
        "us" | "µs" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || number.ends_with('.') || fraction.len() > 6 {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let digits = 10u64.pow(fraction.len() as u32);
    if !(part * scale).is_multiple_of(digits) {
        return Err(format!("'{text}' is not a whole number of microseconds"));
    }
    let us = whole.checked_mul(scale).and_then(|us| us.checked_add(part * scale / digits));
    us.and_then(|us| u32::try_from(us).ok()).ok_or_else(|| format!("'{text}' is too long a time"))
}

/// Seconds, at most a day: how long to record.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    seconds(text, 0.001)
}

/// Seconds, at most a day: how long to wait.
pub fn parse_delay(text: &str) -> Result<f64, String> {
    seconds(text, 0.1)
}

fn seconds(text: &str, least: f64) -> Result<f64, String> {
    let wrong = || format!("'{text}' is not a number of seconds from {least} to 86400");
    text.parse().ok().filter(|s| (least..=86_400.0).contains(s)).ok_or_else(wrong)
}

/// Microseconds -> "30ms", "100us".
pub fn us(us: u32) -> String {
    if us >= 1_000 && us.is_multiple_of(1_000) { format!("{}ms", us / 1_000) } else { format!("{us}us") }
}

/// Nanoseconds -> three significant digits, for tables.
pub fn ns(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}{unit}")
}

/// "0x1a000000" or decimal, with an optional minus.
pub fn parse_i64(text: &str) -> Result<i64, String> {
    let wrong = || format!("'{text}' is not a number: expected decimal or 0x and hex digits");
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (digits, radix) = digits.strip_prefix("0x").map_or((digits, 10), |hex| (hex, 16));
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(wrong());
    }
    let value = i64::from_str_radix(digits, radix);
    value.map(|v| if negative { -v } else { v }).map_err(|_| wrong())
}

/// "0xffffffff81000000".
pub fn parse_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").filter(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
    let parsed = digits.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    parsed.ok_or_else(|| format!("'{text}' is not an address: expected 0x and up to 16 hex digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hex() {
        assert_eq!(parse_address("0xffffffff81000000"), Ok(0xffff_ffff_8100_0000));
        for text in ["", "0x", "10", "0x+1", "0x1g", "0x10000000000000000"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_microseconds() {
        for (text, expected) in
            [("30ms", 30_000), ("100us", 100), ("0.1ms", 100), ("1s", 1_000_000), ("1.5ms", 1_500)]
        {
            assert_eq!(parse_us(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn times_need_unit_and_sense() {
        for text in [
            "",
            "30",
            "ms",
            "30 ms",
            "-1ms",
            ".1ms",
            "1.ms",
            "1.2.3ms",
            "30m",
            "1e3us",
            "0.1us",
            "5000s",
            "0.1234567s",
        ] {
            assert!(parse_us(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_shown_short() {
        assert_eq!([us(30_000), us(100), us(1_500), us(0)], ["30ms", "100us", "1500us", "0us"]);
        assert_eq!(
            [ns(999), ns(1_500), ns(98_765_432), ns(123_000_000_000)],
            ["999ns", "1.50us", "98.8ms", "123s"]
        );
    }

    #[test]
    fn numbers_are_decimal_or_hex() {
        assert_eq!(parse_i64("0x1a00"), Ok(0x1a00));
        assert_eq!(parse_i64("-0x10"), Ok(-16));
        assert_eq!(parse_i64("4096"), Ok(4096));
        for text in ["", "-", "0x", "1g", "0x+1", "+1", "--1", "0x-1", "0x8000000000000000"] {
            assert!(parse_i64(text).is_err(), "{text}");
        }
    }
}
