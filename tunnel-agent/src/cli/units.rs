//! Numbers, times and other people's text, as people read them.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;

/// `999 B`, `1.2 kB`, `34 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    Bytes(bytes).to_string()
}

/// The same, to be written where a line is put together.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        if bytes < 1000 {
            return write!(f, "{bytes} B");
        }
        let mut size = bytes as f64;
        for unit in ["kB", "MB", "GB", "TB", "PB", "EB"] {
            size /= 1000.0;
            // Below 9.95 there is a digit after the point; what would be rounded to 1000 has another unit.
            if size < 9.95 {
                return write!(f, "{size:.1} {unit}");
            }
            if size < 999.5 {
                return write!(f, "{size:.0} {unit}");
            }
        }
        write!(f, "{size:.0} EB")
    }
}

/// `59s`, `3m`, `2h`, `5d`.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m", seconds / 60),
        seconds @ ..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `0.3 ms`, `34 ms`, `1.2 s`, `3m`: of what may be over in no time.
pub(crate) struct Brief(pub(crate) Duration);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        match millis {
            ..9.95 => write!(f, "{millis:.1} ms"),
            ..999.5 => write!(f, "{millis:.0} ms"),
            ..9_950.0 => write!(f, "{:.1} s", millis / 1e3),
            ..59_500.0 => write!(f, "{:.0} s", millis / 1e3),
            _ => f.write_str(&duration(self.0.max(Duration::from_secs(60)))),
        }
    }
}

/// `1 client`, `2 clients`.
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// RFC 3339 in UTC, to the millisecond. (Another program's clock may be in any year; this prints them all.)
pub(crate) fn milliseconds(time: SystemTime) -> String {
    let mut time = Timestamp::from(time);
    time.nanos -= time.nanos % 1_000_000;
    time.to_string()
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn seconds(time: SystemTime) -> String {
    Timestamp { nanos: 0, ..Timestamp::from(time) }.to_string()
}

/// Without what could drive a terminal, or show text in another order than it has.
pub(crate) fn printable(text: &str) -> String {
    Printable(text).to_string()
}

/// The same, to be written where a line is put together.
pub(crate) struct Printable<'t>(pub(crate) &'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_harmful = |c: char| c.is_control() || REORDERING.contains(&c);
        let mut pieces = self.0.split(is_harmful);
        f.write_str(pieces.next().unwrap_or_default())?;
        pieces.try_for_each(|piece| write!(f, "?{piece}"))
    }
}

/// Unicode's marks that change the direction of text, and its own line breaks.
const REORDERING: [char; 14] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}',
    '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits_and_a_unit() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (34_000_000, "34 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(number), text, "{number}");
        }
    }

    #[test]
    fn durations_have_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (86_400, "1d"), (900_000, "10d")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_is_over_in_no_time_is_told_by_the_millisecond() {
        for (micros, text) in [
            (0, "0.0 ms"),
            (340, "0.3 ms"),
            (9_949, "9.9 ms"),
            (9_951, "10 ms"),
            (999_499, "999 ms"),
            (999_501, "1.0 s"),
            (9_951_000, "10 s"),
            (59_501_000, "1m"),
            (7_200_000_000, "2h"),
        ] {
            assert_eq!(Brief(Duration::from_micros(micros)).to_string(), text, "{micros}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_123_456);
        assert_eq!(seconds(time), "1970-01-01T00:00:01Z");
        assert_eq!(milliseconds(time), "1970-01-01T00:00:01.500Z");
    }

    #[test]
    fn a_text_from_elsewhere_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a?[2Jb?c");
        assert_eq!(printable("gpj.\u{202e}exe\u{2029}ä"), "gpj.?exe?ä");
    }
}
