//! The histogram log: every interval of a run, readable by the usual `HdrHistogram` tools.
//!
//! **Owns** the file and its header.
//! **Lives on** the observer's thread.
//! **Invariants** one line an interval and kind of latency, tagged with the kind; values are
//! nanoseconds; compressed V2 encoding, which the Java, C and Rust readers take.
//! **Limits** none: lines are written as they come, so a soak of days needs no memory.
//! **Not here** percentiles (`report`).

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::error::BenchError;
use crate::recorder::Latency;

/// A log that is being written.
#[derive(Debug)]
pub struct HistogramLog {
    path: PathBuf,
    file: BufWriter<File>,
    failure: Option<String>,
}

impl HistogramLog {
    /// Creates the file and writes its header.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn create(path: &Path, comment: &str) -> Result<Self, BenchError> {
        let output = |source| BenchError::Output {
            path: path.display().to_string(),
            source,
        };
        let mut file = BufWriter::new(File::create(path).map_err(output)?);
        let now = SystemTime::now();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!("[gantry bench {comment}; values in ns]"))
            .with_start_time(now)
            .with_base_time(now)
            .begin_log_with(&mut file, &mut V2DeflateSerializer::new())
            .map_err(output)?;
        let legend = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
                      \"Interval_Compressed_Histogram\"";
        writeln!(file, "{legend}").map_err(output)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            failure: None,
        })
    }

    /// Appends an interval; a failure is kept for the end, the run goes on.
    pub fn write(
        &mut self,
        of: Latency,
        start: Duration,
        length: Duration,
        histogram: &Histogram<u64>,
    ) {
        let mut serializer = V2DeflateSerializer::new();
        // Without comments and times the builder adds nothing of its own.
        let written = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.file, &mut serializer)
            .map_err(|e| e.to_string())
            .and_then(|mut log| {
                log.write_histogram(histogram, start, length, Tag::new(of.name()))
                    .map_err(|e| e.to_string())
            });
        if let Err(why) = written {
            self.failure.get_or_insert(why);
        }
    }

    /// Ends the log; what went wrong, if something did.
    pub fn finish(mut self) -> Option<String> {
        let flushed = self.file.flush().map_err(|e| e.to_string());
        let failure = self.failure.or(flushed.err());
        failure.map(|why| format!("writing {}: {why}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn what_is_logged_is_read_back_with_its_tag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.hlog");
        let mut log = HistogramLog::create(&path, "produce").unwrap();
        let mut histogram = crate::recorder::histogram();
        histogram.record(1_234_567).unwrap();
        let second = Duration::from_secs(1);
        log.write(Latency::Send, second, second, &histogram);
        log.write(Latency::Deliver, second, second, &histogram);
        assert_eq!(log.finish(), None);
        let text = std::fs::read(&path).unwrap();
        let mut tags = Vec::new();
        for entry in IntervalLogIterator::new(&text) {
            let LogEntry::Interval(interval) = entry.unwrap() else {
                continue;
            };
            tags.push(interval.tag().unwrap().as_str().to_owned());
            let encoded = interval.encoded_histogram();
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
            let back: Histogram<u64> = Deserializer::new()
                .deserialize(&mut bytes.unwrap().as_slice())
                .unwrap();
            assert_eq!((back.len(), back.max()), (1, histogram.max()));
        }
        assert_eq!(tags, ["send", "deliver"]);
    }
}
