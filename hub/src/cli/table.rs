//! Aligned columns.

use super::output::Style;

/// Between columns, as kubectl has it.
const GAP: usize = 3;
/// Longest cell, in characters: a message of the hub's should fit, a runaway
/// one should not fill the screen.
const MAX_CELL: usize = 300;

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A text in a style; what could move the cursor is shown as `?`.
    pub fn new(text: impl AsRef<str>, style: Style) -> Self {
        let clean = |c: char| if c.is_control() { '?' } else { c };
        let mut text: String = text.as_ref().chars().map(clean).take(MAX_CELL).collect();
        if text.is_empty() {
            text.push('-');
        }
        Self { text, style }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::new(text, Style::Plain)
    }
}

/// Headings and rows of equal length.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings and no rows yet.
    pub fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells beyond the headings are left out.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text.
    pub fn render(&self, colour: bool, headings: bool) -> String {
        let width = |column: usize| {
            let head = if headings { self.head[column].len() } else { 0 };
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|c| c.text.chars().count()).fold(head, usize::max)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        if headings {
            let cells: Vec<Cell> = self
                .head
                .iter()
                .map(|h| Cell::new(h, Style::Bold))
                .collect();
            render_row(&mut out, &cells, &widths, colour);
        }
        for row in &self.rows {
            render_row(&mut out, row, &widths, colour);
        }
        out
    }
}

fn render_row(out: &mut String, cells: &[Cell], widths: &[usize], colour: bool) {
    let last = widths.len().min(cells.len()).saturating_sub(1);
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        out.push_str(&cell.style.paint(&cell.text, colour));
        if index < last {
            let pad = width - cell.text.chars().count() + GAP;
            out.extend(std::iter::repeat_n(' ', pad));
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let mut table = Table::new(&["NAME", "STATE", "AGE"]);
        table.row(vec![
            "kiosk-7".into(),
            Cell::new("online", Style::Good),
            "5s".into(),
        ]);
        table.row(vec![
            "é".into(),
            Cell::new("", Style::Bad),
            "1\x1b[2Jd".into(),
        ]);
        assert_eq!(
            table.render(false, true),
            "NAME      STATE    AGE\nkiosk-7   online   5s\né         -        1?[2Jd\n"
        );
        assert_eq!(
            table.render(true, false).lines().next(),
            Some("kiosk-7   \x1b[32monline\x1b[0m   5s")
        );
    }
}
