//! What the user commands print: tables and JSON on standard output, everything else on standard error.
//!
//! Knows nothing about the API. Text that came from elsewhere is cleaned of control characters before it reaches a
//! terminal.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

/// Form of listings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: what the API says, as one array.
    Json,
}

/// The two streams of a command and what the terminal can do.
pub(crate) struct Output<'a> {
    /// Results.
    pub(crate) data: &'a mut dyn Write,
    /// Progress, warnings, hints.
    pub(crate) talk: &'a mut dyn Write,
    /// How results look.
    pub(crate) style: Style,
}

/// What the terminal can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether colours are wanted.
    pub(crate) colour: bool,
    /// Columns of the terminal; `None` when output goes elsewhere and nothing needs to be cut.
    pub(crate) width: Option<usize>,
}

impl Style {
    /// The style for standard output: colours and a width only on a terminal, no colours with `NO_COLOR`.
    pub(crate) fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self { colour: false, width: None };
        }
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        // Narrower terminals wrap; below this width no table is readable.
        Self { colour: !is_set("NO_COLOR") && !is_dumb, width: Some(width.max(80)) }
    }
}

impl Output<'_> {
    /// Writes one line of results.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.data, "{text}")
    }

    /// Writes one line of talk.
    pub(crate) fn say(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.talk, "{text}")
    }

    /// Writes records as one JSON array.
    pub(crate) fn json<T: Serialize>(&mut self, records: &[T]) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *self.data, records)?;
        writeln!(self.data)
    }

    /// Writes a table.
    pub(crate) fn table(&mut self, table: &Table) -> io::Result<()> {
        table.write(self.data, self.style)
    }
}

/// Meaning of a cell, which gives its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// On its way.
    Pending,
    /// Needs attention.
    Bad,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a meaning.
    pub(crate) fn toned(text: impl ToString, tone: Tone) -> Self {
        let text = clean(&text.to_string());
        // An empty cell would let the eye, and `awk`, slip into the next column.
        Self { text: if text.is_empty() { "-".to_owned() } else { text }, tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A table with a heading. Columns are separated by two blanks, so that output is easy to cut apart.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table. Its last column is the one that is cut when the terminal is too narrow.
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the heading are left out.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().take(self.heading.len()).collect());
    }

    fn write(&self, to: &mut dyn Write, style: Style) -> io::Result<()> {
        let widths = self.widths(style.width);
        let heading = self.heading.iter().map(|title| Cell::from(*title));
        write_row(to, &heading.collect::<Vec<_>>(), &widths, style.colour)?;
        for row in &self.rows {
            write_row(to, row, &widths, style.colour)?;
        }
        Ok(())
    }

    /// Widths that fit the terminal: the last column gives way first, down to its heading, then the widest ones.
    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heading.iter().map(|title| title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let Some(limit) = limit else { return widths };
        let gaps = 2 * widths.len().saturating_sub(1);
        let mut surplus = (widths.iter().sum::<usize>() + gaps).saturating_sub(limit);
        if let Some(last) = widths.last_mut() {
            let given = surplus.min(last.saturating_sub(MIN_WIDTH));
            *last -= given;
            surplus -= given;
        }
        while surplus > 0 {
            match widths.iter_mut().max().filter(|widest| **widest > MIN_WIDTH) {
                Some(widest) => *widest -= 1,
                None => break,
            }
            surplus -= 1;
        }
        widths
    }
}

/// Narrowest a column is cut to.
const MIN_WIDTH: usize = 8;

fn write_row(to: &mut dyn Write, cells: &[Cell], widths: &[usize], colour: bool) -> io::Result<()> {
    let last = cells.len().saturating_sub(1);
    for (position, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let text = cut(&cell.text, *width);
        let code = match cell.tone {
            Tone::Good if colour => "\x1b[32m",
            Tone::Pending if colour => "\x1b[33m",
            Tone::Bad if colour => "\x1b[31m",
            Tone::Plain | Tone::Good | Tone::Pending | Tone::Bad => "",
        };
        let end = if code.is_empty() { "" } else { "\x1b[0m" };
        write!(to, "{code}{text}{end}")?;
        if position != last {
            let padding = width.saturating_sub(text.chars().count()) + 2;
            write!(to, "{:padding$}", "")?;
        }
    }
    writeln!(to)
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// One line without control characters: text from a server must not move the cursor or recolour the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Cell, Style, Table, Tone};

    fn rendered(style: Style) -> String {
        let mut table = Table::new(&["NAME", "STATUS", "DETAIL"]);
        table.row([
            Cell::from("nginx"),
            Cell::toned("RUNNING", Tone::Good),
            Cell::from("evil\x1b[2J\n".to_owned() + &"x".repeat(90)),
        ]);
        table.row([Cell::from("curl"), Cell::toned("FAILED", Tone::Bad), Cell::from("")]);
        let mut bytes = Vec::new();
        table.write(&mut bytes, style).expect("written to memory");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn fits_the_terminal_and_never_passes_control_characters() {
        let text = rendered(Style { colour: false, width: Some(80) });
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains('\x1b') && text.contains('…'), "{text}");
        assert!(text.starts_with("NAME   STATUS   DETAIL\nnginx  RUNNING  evil [2J"), "{text}");
        assert!(text.ends_with("curl   FAILED   -\n"), "{text}");
    }

    #[test]
    fn cuts_nothing_when_output_goes_to_a_program() {
        let text = rendered(Style { colour: false, width: None });
        assert!(text.contains(&"x".repeat(90)));
    }

    #[test]
    fn colours_states_only_when_wanted() {
        let text = rendered(Style { colour: true, width: Some(80) });
        assert!(text.contains("\x1b[32mRUNNING\x1b[0m") && text.contains("\x1b[31mFAILED\x1b[0m"), "{text}");
    }

    #[test]
    fn wide_columns_give_way_after_the_last() {
        let mut table = Table::new(&["A", "B"]);
        table.row([Cell::from("a".repeat(100)), Cell::from("b".repeat(100))]);
        let widths = table.widths(Some(80));
        assert_eq!(widths, [70, 8]);
    }
}
