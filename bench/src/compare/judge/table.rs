//! What was found, as a file and as a table.
//!
//! **Owns** `log.json` and `LOG.md`.
//! **Lives on** the calling thread.
//! **Invariants** a round that failed or lacks its figure is no figure: no bar is held by it.
//! **Limits** none.
//! **Not here** measuring (`judge`), bars (`rows`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::rows::{Found, Row};
use crate::compare::results::{Span, built_from, machine, one_line, said_by, short, span, verdict};
use crate::error::BenchError;

const JSON: &str = "log.json";
const TABLE: &str = "LOG.md";

/// A row and what its rounds found.
#[derive(Debug)]
pub struct Rounds {
    /// Which.
    pub row: Row,
    /// In order.
    pub found: Vec<Found>,
}

impl Rounds {
    fn judged(&self) -> Option<Span> {
        let judged: Option<Vec<f64>> = self.found.iter().map(|found| found.judged).collect();
        span(judged?)
    }

    fn complaint(&self) -> Option<String> {
        let mut all = self.found.iter().flat_map(|found| &found.complaints);
        all.next().map(|said| one_line(said))
    }

    /// Whether it failed, or has no figure.
    pub fn has_failed(&self) -> bool {
        self.complaint().is_some() || self.judged().is_none()
    }

    fn verdict(&self) -> String {
        let held = self.judged().map(|span| self.row.bar().holds(span.median));
        verdict(self.complaint().as_deref(), held)
    }

    /// Median of each part.
    fn parts(&self) -> Vec<(&'static str, Span)> {
        let first = self.found.first();
        let names = first.into_iter().flat_map(|found| &found.parts);
        let of = |name: &str| {
            let all = self.found.iter().flat_map(|found| &found.parts);
            span(
                all.filter(|part| part.0 == name)
                    .map(|part| part.1)
                    .collect(),
            )
        };
        names
            .filter_map(|(name, _)| Some((*name, of(name)?)))
            .collect()
    }

    /// The largest share of the machine that went to others in a run.
    fn noise_max(&self) -> Option<f64> {
        let all = self.found.iter().flat_map(|found| &found.noise).copied();
        all.max_by(f64::total_cmp)
    }

    /// Its line of the table.
    pub fn line(&self) -> String {
        let judged = self.judged().map_or("–".to_owned(), Span::text);
        let parts = self.parts().into_iter();
        let mut parts: Vec<String> = parts
            .map(|(name, span)| format!("{name} {}", short(span.median)))
            .collect();
        parts.extend(self.noise_max().map(|share| {
            let percent = share * 100.0;
            format!("others at most {percent:.0} % of the machine")
        }));
        format!(
            "| {} | {} | {judged} | {} | {} | {} |",
            self.row.name(),
            self.row.what(),
            self.row.bar().text(),
            self.verdict(),
            parts.join(", ")
        )
    }

    fn to_json(&self) -> Value {
        let rounds: Vec<Value> = self
            .found
            .iter()
            .map(|found| {
                let parts = found.parts.iter();
                let parts: Map<String, Value> = parts
                    .map(|(name, value)| ((*name).to_owned(), json!(value)))
                    .collect();
                json!({
                    "judged": found.judged,
                    "parts": parts,
                    "complaints": found.complaints,
                    "noise": found.noise,
                })
            })
            .collect();
        json!({
            "row": self.row.name(),
            "what": self.row.what(),
            "bar": self.row.bar().text(),
            "verdict": self.verdict(),
            "median": self.judged().map(|span| span.median),
            "rounds": rounds,
        })
    }
}

/// Writes both files.
///
/// # Errors
/// The folder can't be written.
pub fn write(
    all: &[Rounds],
    (commit, quick): (&str, bool),
    folder: &Path,
) -> Result<PathBuf, BenchError> {
    let about = json!({
        "machine": machine(),
        "date": said_by("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        "commit": built_from(commit),
        "quick": quick,
        "rows": all.iter().map(Rounds::to_json).collect::<Vec<Value>>(),
    });
    let table = folder.join(TABLE);
    let files = [
        (folder.join(JSON), format!("{about:#}\n")),
        (table.clone(), markdown(all, &about)),
    ];
    for (path, content) in files {
        let written = std::fs::create_dir_all(folder);
        let written = written.and_then(|()| std::fs::write(&path, content));
        written.map_err(|source| BenchError::Output {
            path: path.display().to_string(),
            source,
        })?;
    }
    Ok(table)
}

fn markdown(all: &[Rounds], about: &Value) -> String {
    let of = |name: &str| about.get(name).and_then(Value::as_str).unwrap_or("?");
    let quick = about.get("quick").and_then(Value::as_bool) == Some(true);
    let mut out = format!(
        "# Gantry's log beside the device and itself\n\n\
         Written by `gantry bench judge`; what is measured says [bench/README.md](../README.md). \
         Medians (lowest–highest) of {} rounds.\n{}, commit {}, {}{}.\n\n\
         | | figure | found | bar | | made of (medians) |\n|---|---|---|---|---|---|\n",
        all.first().map_or(0, |rounds| rounds.found.len()),
        of("date"),
        of("commit"),
        of("machine"),
        if quick { ", quick" } else { "" },
    );
    for rounds in all {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{}", rounds.line());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(judged: Option<f64>) -> Found {
        Found {
            judged,
            parts: vec![("part", 4.0)],
            noise: vec![0.12, 0.034],
            ..Found::default()
        }
    }

    #[test]
    fn a_median_is_held_against_the_bar() {
        let found = [0.7, 0.81, 0.9].map(|value| found(Some(value)));
        let rounds = Rounds {
            row: Row::SyncOwn,
            found: found.to_vec(),
        };
        assert_eq!(rounds.verdict(), "held");
        assert!(rounds.line().contains("0.810 (0.700–0.900)") && !rounds.has_failed());
        assert!(rounds.line().contains("others at most 12 % of the machine"));
    }

    #[test]
    fn a_round_without_a_figure_or_with_a_complaint_holds_nothing() {
        let mut rounds = Rounds {
            row: Row::SyncOwn,
            found: vec![found(Some(0.9)), found(None)],
        };
        assert_eq!(rounds.verdict(), "no figure");
        assert!(rounds.has_failed());
        rounds.found = vec![found(Some(0.9)), found(Some(0.9))];
        rounds.found[1].complaints = vec!["1 lost |\nof 2".to_owned()];
        assert_eq!(rounds.verdict(), "FAILED: 1 lost /, of 2");
        assert!(rounds.has_failed());
    }

    #[test]
    fn both_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let rounds = Rounds {
            row: Row::Device,
            found: vec![found(Some(90.0))],
        };
        let table = write(&[rounds], ("abc", true), folder.path()).unwrap();
        let table = std::fs::read_to_string(table).unwrap();
        assert!(table.contains("| device |") && table.contains("quick"));
        assert!(table.contains("of 1 rounds"));
        let text = std::fs::read_to_string(folder.path().join(JSON)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["rows"][0]["median"], 90.0);
    }
}
