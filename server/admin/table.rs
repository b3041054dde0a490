//! What operator commands print: tables for people, one JSON document for scripts.
//!
//! **Owns** the layout, and the form of times and missing values.
//! **Lives on** the main thread; pure but for [`Report::print`].
//! **Invariants** a column has one name, in the table's head and as a member of JSON objects; JSON
//! has plain numbers, times in ms since 1970 and `null` where a table has `-`.
//! **Limits** none of its own.
//! **Not here** what is shown (a file a noun).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::print::answer;

const MS_PER_DAY: i64 = 86_400_000;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count or offset.
    Number(i64),
    /// A rate.
    Rate(f64),
    /// Yes or no.
    Flag(bool),
    /// Ms since 1970; 0 and less is none.
    Time(i64),
    /// Nothing is known.
    Nothing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i32> for Cell {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(known: Option<T>) -> Self {
        known.map_or(Self::Nothing, Into::into)
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Text(text) if text.is_empty() => "-".to_owned(),
            // One row is one line.
            Self::Text(text) => text.replace(|c: char| c.is_control(), " "),
            Self::Number(number) => number.to_string(),
            Self::Rate(rate) => format!("{rate:.2}"),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Time(ms) if *ms > 0 => utc(*ms),
            Self::Time(_) | Self::Nothing => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
            Self::Rate(rate) => json!(rate),
            Self::Flag(flag) => json!(flag),
            Self::Time(ms) if *ms > 0 => json!(ms),
            Self::Time(_) | Self::Nothing => Value::Null,
        }
    }

    fn is_right(&self) -> bool {
        matches!(self, Self::Number(_) | Self::Rate(_))
    }
}

/// Rows of the same kind.
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// No rows yet; `name` is the member of a JSON document with several tables.
    pub fn new(name: &'static str, columns: &[&'static str]) -> Self {
        Self {
            name,
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell a column.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell a column: {}", self.name);
        self.rows.push(cells.into());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let members = self.columns.iter().zip(row);
            let members = members.map(|(name, cell)| ((*name).to_owned(), cell.json()));
            Value::Object(members.collect())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    fn text(&self, out: &mut String) {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(Cell::text).collect())
            .collect();
        let width = |column: usize, name: &str| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max();
            widest.unwrap_or(0).max(name.chars().count())
        };
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(column, name)| width(column, name))
            .collect();
        let right: Vec<bool> = (0..self.columns.len())
            .map(|column| {
                let mut cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.any(Cell::is_right)
            })
            .collect();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for ((cell, width), right) in cells.zip(&widths).zip(&right) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *right { (&*pad, "") } else { ("", &*pad) };
                // Writing to a String cannot fail.
                let _ = write!(text, "{before}{cell}{after}  ");
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&mut self.columns.iter().copied());
        for row in &rows {
            line(&mut row.iter().map(String::as_str));
        }
    }
}

/// What one command has to say.
#[derive(Debug, Default)]
pub struct Report {
    facts: Vec<(&'static str, Cell)>,
    tables: Vec<Table>,
}

impl Report {
    /// Prints what a change did, broker by broker, also when it failed on the way: those before are
    /// changed.
    ///
    /// # Errors
    /// The change's; standard output takes nothing.
    pub fn print_changes(
        table: Table,
        outcome: Result<(), String>,
        as_json: bool,
    ) -> Result<(), String> {
        if outcome.is_ok() || !table.is_empty() {
            Self::of(table).print(as_json)?;
        }
        outcome
    }

    /// One table.
    pub fn of(table: Table) -> Self {
        Self {
            facts: Vec::new(),
            tables: vec![table],
        }
    }

    /// Adds a fact about the whole.
    pub fn fact(&mut self, name: &'static str, value: impl Into<Cell>) {
        self.facts.push((name, value.into()));
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    fn json(&self) -> Value {
        if let ([], [table]) = (self.facts.as_slice(), self.tables.as_slice()) {
            return table.json();
        }
        let facts = self.facts.iter();
        let facts = facts.map(|(name, cell)| ((*name).to_owned(), cell.json()));
        let tables = self.tables.iter();
        let tables = tables.map(|table| (table.name.to_owned(), table.json()));
        Value::Object(facts.chain(tables).collect::<Map<_, _>>())
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let width = self.facts.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0);
        for (name, cell) in &self.facts {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:width$}  {}", cell.text());
        }
        for table in &self.tables {
            if !out.is_empty() {
                out.push('\n');
            }
            if self.tables.len() > 1 || !self.facts.is_empty() {
                let _ = writeln!(out, "{}:", table.name);
            }
            if table.is_empty() {
                out.push_str("(none)\n");
            } else {
                table.text(&mut out);
            }
        }
        out
    }

    /// Prints it.
    ///
    /// # Errors
    /// Standard output takes nothing.
    pub fn print(&self, as_json: bool) -> Result<(), String> {
        let text = if as_json {
            format!("{:#}\n", self.json())
        } else {
            self.text()
        };
        answer(&text).map(drop)
    }
}

/// A time of UTC, to the second.
fn utc(ms: i64) -> String {
    let days = ms.div_euclid(MS_PER_DAY);
    let seconds = ms.rem_euclid(MS_PER_DAY) / 1000;
    // Years that begin in March, in eras of 400 of them, so that the leap day is the last one.
    let since_march_of_year_0 = days + 719_468;
    let era = since_march_of_year_0.div_euclid(146_097);
    let day_of_era = since_march_of_year_0.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next) = match month_from_march {
        0..=9 => (month_from_march + 3, 0),
        _ => (month_from_march - 9, 1),
    };
    let year = era * 400 + year_of_era + next;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00");
        assert_eq!(utc(1_700_000_000_000), "2023-11-14T22:13:20");
        assert_eq!(utc(1_709_164_800_000), "2024-02-29T00:00:00");
        assert_eq!(utc(951_868_799_999), "2000-02-29T23:59:59");
        assert_eq!(utc(4_102_444_799_000), "2099-12-31T23:59:59");
    }

    fn sample() -> Table {
        let mut table = Table::new("rows", &["name", "count", "since"]);
        table.row(["a".into(), 5.into(), Cell::Time(0)]);
        table.row(["longer\n".into(), 1234.into(), Cell::Time(1000)]);
        table
    }

    #[test]
    fn one_table_is_aligned_and_a_list_of_objects() {
        let report = Report::of(sample());
        let text = "name     count  since\n\
                    a            5  -\n\
                    longer    1234  1970-01-01T00:00:01\n";
        assert_eq!(report.text(), text);
        let wanted = json!([{"name": "a", "count": 5, "since": null},
            {"name": "longer\n", "count": 1234, "since": 1000}]);
        assert_eq!(report.json(), wanted);
    }

    #[test]
    fn facts_and_tables_are_members_of_one_object() {
        let mut report = Report::default();
        report.fact("topic", "T");
        report.fact("order", false);
        report.table(sample());
        report.table(Table::new("groups", &["group"]));
        assert!(
            report
                .text()
                .starts_with("topic  T\norder  no\n\nrows:\nname")
        );
        assert!(report.text().ends_with("\ngroups:\n(none)\n"));
        assert_eq!(report.json()["groups"], json!([]));
        assert_eq!(report.json()["rows"][0]["count"], json!(5));
    }
}
