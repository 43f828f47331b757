//! Results as text.

use std::fmt::Write as _;

use crate::{results::Results, subject::Subject};

/// A block for each reading, a line for each subject.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    for (reading, unit) in results.readings() {
        let better = if unit.grows() { "more is better" } else { "less is better" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{reading}, {unit} ({better})");
        let _ = writeln!(
            text,
            "  {:<15} {:>10} {:>23} {:>10} {:>10}",
            "", "median", "min – max", "× rathole", "× best peer"
        );
        for subject in Subject::ALL {
            let is_it = |row: &&crate::results::Row| row.reading == reading && row.subject == subject.name();
            let Some(row) = results.rows.iter().find(is_it) else { continue };
            let spread = format!("{} – {}", number(row.min), number(row.max));
            let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            let (rathole, best) = (ratio(row.to_rathole), ratio(row.to_best_peer));
            let _ = writeln!(text, "  {subject:<15} {:>10} {spread:>23} {rathole:>10} {best:>10}", number(row.median));
        }
    }
    for (subject, why) in &results.left_out {
        let _ = writeln!(text, "\nleft out: {subject}: {why}");
    }
    if !results.failures.is_empty() {
        let _ = writeln!(text, "\nfailed:\n  {}", results.failures.join("\n  "));
    }
    text
}

/// Three digits or more, without a dozen after the point.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
