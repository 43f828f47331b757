/// Columns as wide as their widest cell, two spaces between them; nothing at a line's end.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]], sides: [Side; N]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).zip(sides).map(|((cell, width), side)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Where a column's cells stand: numbers on the right.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Left,
    Right,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["NAME", "IN"], ["a-long-one", "1 B"], ["b", "100 kB"]].map(|row| row.map(str::to_owned));
        let text = aligned(&rows, [Side::Left, Side::Right]);
        assert_eq!(text, "NAME            IN\na-long-one     1 B\nb           100 kB\n");
    }
}
