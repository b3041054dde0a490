//! The picture of a run: latency by percentile, and over time.
//!
//! **Owns** the SVG.
//! **Lives on** the main thread, after the run.
//! **Invariants** both axes of the percentile picture are logarithmic (the tail is what one looks
//! for); all latencies recorded are drawn, each in its own colour.
//! **Limits** none.
//! **Not here** the figures (`report`).

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Report, us};
use crate::observe::course::CoursePoint;
use crate::recorder::Latency;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 900;
/// Points of a percentile curve for each factor of ten.
const POINTS_A_DECADE: u32 = 20;
/// Smallest axis of "one in N".
const ONE_IN_MIN: f64 = 1e4;

/// One of the values of a point.
type Pick = fn(&CoursePoint) -> u64;
/// What can go wrong in drawing: all of it is a file that can't be written.
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws the picture.
///
/// # Errors
/// The file can't be written.
pub fn draw(report: &Report, path: &Path) -> Drawn {
    let root = SVGBackend::new(path, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(HEIGHT / 2);
    by_percentile(report, &upper)?;
    over_time(report, &lower)?;
    root.present()?;
    Ok(())
}

fn title(report: &Report) -> String {
    let values: Vec<&str> = report.scenario.iter().map(|(_, v)| v.as_str()).collect();
    values.join(" · ")
}

/// Points of "one in N is slower than": N from 1 to the number of values.
fn curve(histogram: &Histogram<u64>, one_in_max: f64) -> Vec<(f64, f64)> {
    let decades = one_in_max.log10();
    let steps = (1..).map(|step| f64::from(step) / f64::from(POINTS_A_DECADE));
    steps
        .take_while(|decade| *decade <= decades)
        .map(|decade| {
            let one_in = 10_f64.powf(decade);
            let value = histogram.value_at_quantile(1.0 - 1.0 / one_in);
            (one_in, us(value.max(1)))
        })
        .collect()
}

fn by_percentile(report: &Report, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
    let all: Vec<(Latency, &Histogram<u64>)> = Latency::ALL
        .into_iter()
        .filter_map(|of| Some((of, report.latency(of)?)))
        .collect();
    #[allow(clippy::cast_precision_loss, reason = "a count for an axis")]
    let count = all.iter().map(|(_, h)| h.len()).max().unwrap_or(1) as f64;
    let one_in_max = count.max(ONE_IN_MIN);
    let highest = all.iter().map(|(_, h)| us(h.max())).fold(1.0, f64::max);
    let lowest = all.iter().map(|(_, h)| us(h.min())).fold(highest, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption(title(report), ("sans-serif", 14))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (1.0..one_in_max).log_scale(),
            (lowest.max(1.0)..highest * 1.2).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("latency, µs")
        .x_label_formatter(&|one_in| format!("{}", 100.0 - 100.0 / one_in))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (at, (of, histogram)) in all.iter().enumerate() {
        let colour = Palette99::pick(at).to_rgba();
        let points = curve(histogram, one_in_max.min(histogram_len(histogram)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(of.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a count for an axis")]
fn histogram_len(histogram: &Histogram<u64>) -> f64 {
    histogram.len().max(1) as f64
}

fn over_time(report: &Report, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
    let course = report.observed.course.points();
    let end = course.last().map_or(1.0, |p| p.at_seconds).max(1.0);
    let highest = course.iter().map(|p| us(p.max_ns)).fold(1.0, f64::max);
    let lowest = course
        .iter()
        .map(|p| us(p.p50_ns))
        .filter(|v| *v > 0.0)
        .fold(highest, f64::min);
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{} latency by the second", report.main.name()),
            ("sans-serif", 14),
        )
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, (lowest.max(1.0)..highest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("latency, µs")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    let lines: [(&str, Pick); 3] = [
        ("p50", |p| p.p50_ns),
        ("p99", |p| p.p99_ns),
        ("max", |p| p.max_ns),
    ];
    for (at, (name, of)) in lines.into_iter().enumerate() {
        let colour = Palette99::pick(at).to_rgba();
        let points = course
            .iter()
            .filter(|p| of(p) > 0)
            .map(|p| (p.at_seconds, us(of(p))));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
