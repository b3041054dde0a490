//! A run's course: what was measured in each interval, and the broker's memory at both ends.
//!
//! **Owns** the points of the course and how many intervals each of them has.
//! **Lives on** the observer's thread.
//! **Invariants** all points have as many intervals, but for the last one, which is not full yet:
//! the second half of a long run is drawn as finely as the first. The first and the last reading of
//! the memory are kept beside the points, so that joining points moves neither.
//! **Limits** [`COURSE_POINTS_MAX`] points; then two neighbours become one.
//! **Not here** measuring (`watch`).

/// Points kept of the course of a run: an hour by the second.
pub const COURSE_POINTS_MAX: usize = 3600;

/// One or more intervals of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CoursePoint {
    /// Seconds since the window opened, at its end.
    pub at_seconds: f64,
    /// Length.
    pub length_seconds: f64,
    /// Messages acknowledged, delivered or connections answered: the most of the three; of pending
    /// messages those delivered.
    pub count: u64,
    /// Median of the main latency, ns.
    pub p50_ns: u64,
    /// 99th percentile of it.
    pub p99_ns: u64,
    /// Its highest.
    pub max_ns: u64,
    /// The broker's memory that no disk file backs, at its end; `None` if its process is not known
    /// or gone.
    pub unbacked_bytes: Option<u64>,
}

impl CoursePoint {
    /// This and the next one as one, of which the worse latencies are kept.
    fn with(self, next: Self) -> Self {
        Self {
            at_seconds: next.at_seconds,
            length_seconds: self.length_seconds + next.length_seconds,
            count: self.count + next.count,
            p50_ns: self.p50_ns.max(next.p50_ns),
            p99_ns: self.p99_ns.max(next.p99_ns),
            max_ns: self.max_ns.max(next.max_ns),
            unbacked_bytes: next.unbacked_bytes,
        }
    }
}

/// The course of a run.
#[derive(Debug)]
pub struct Course {
    points: Vec<CoursePoint>,
    /// Intervals of a point.
    whole: u64,
    /// Those that the last point has.
    in_last: u64,
    /// The broker's memory at the end of the first interval and of the last one in which it was
    /// read.
    unbacked_bytes: Option<(u64, u64)>,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            points: Vec::new(),
            whole: 1,
            in_last: 0,
            unbacked_bytes: None,
        }
    }
}

impl Course {
    /// The next interval.
    pub fn add(&mut self, interval: CoursePoint) {
        if let Some(now) = interval.unbacked_bytes {
            let first = self.unbacked_bytes.map_or(now, |(first, _)| first);
            self.unbacked_bytes = Some((first, now));
        }
        if let Some(last) = self.points.last_mut()
            && self.in_last < self.whole
        {
            *last = last.with(interval);
            self.in_last += 1;
            return;
        }
        if self.points.len() >= COURSE_POINTS_MAX {
            self.join();
        }
        self.points.push(interval);
        self.in_last = 1;
    }

    /// Half as many points; all of them are full.
    fn join(&mut self) {
        let pairs = self.points.chunks(2);
        let joined = pairs.filter_map(|pair| pair.iter().copied().reduce(CoursePoint::with));
        self.points = joined.collect();
        self.whole *= 2;
    }

    /// In order of time.
    pub fn points(&self) -> &[CoursePoint] {
        &self.points
    }

    /// The broker's memory that no disk file backs in the first and in the last interval.
    pub fn unbacked_bytes(&self) -> Option<(u64, u64)> {
        self.unbacked_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u32) -> CoursePoint {
        CoursePoint {
            at_seconds: f64::from(n) + 1.0,
            length_seconds: 1.0,
            count: u64::from(n),
            max_ns: u64::from(n) * 10,
            unbacked_bytes: Some(1_000 + u64::from(n)),
            ..CoursePoint::default()
        }
    }

    fn course(seconds: u32) -> Course {
        let mut course = Course::default();
        (0..seconds).for_each(|n| course.add(second(n)));
        course
    }

    #[test]
    fn a_short_course_is_kept_as_it_was() {
        let course = course(3600);
        assert_eq!(course.points().len(), 3600);
        assert_eq!(course.points()[1], second(1));
        assert_eq!(course.unbacked_bytes(), Some((1_000, 4_599)));
    }

    /// A day. What "first" means must not depend on how long the run was.
    #[test]
    fn a_long_course_has_equal_points_and_the_memory_of_both_ends() {
        let course = course(86_400);
        assert_eq!(course.unbacked_bytes(), Some((1_000, 87_399)));
        let points = course.points();
        assert!(points.len() > COURSE_POINTS_MAX / 2 && points.len() <= COURSE_POINTS_MAX);
        let lengths = points.iter().map(|p| p.length_seconds);
        assert!(lengths.clone().all(|length| (length - 32.0).abs() < 1e-9));
        let mut before = 0.0;
        for point in points {
            assert!((point.at_seconds - before - point.length_seconds).abs() < 1e-9);
            before = point.at_seconds;
        }
    }

    #[test]
    fn no_message_and_no_peak_is_lost_and_only_the_last_point_is_shorter() {
        for seconds in [3601, 7201, 10_001] {
            let course = course(seconds);
            let points = course.points();
            let count: u64 = points.iter().map(|p| p.count).sum();
            assert_eq!(count, (0..u64::from(seconds)).sum::<u64>());
            let highest = points.iter().map(|p| p.max_ns).max();
            assert_eq!(highest, Some(u64::from(seconds - 1) * 10));
            let (last, full) = points.split_last().unwrap();
            let length = full[0].length_seconds;
            assert!(
                full.iter()
                    .all(|p| (p.length_seconds - length).abs() < 1e-9)
            );
            assert!(last.length_seconds <= length);
            assert_eq!(last.unbacked_bytes, Some(999 + u64::from(seconds)));
        }
    }

    #[test]
    fn what_was_not_read_is_no_reading() {
        let mut course = Course::default();
        course.add(CoursePoint::default());
        assert_eq!(course.unbacked_bytes(), None);
        course.add(second(7));
        course.add(CoursePoint::default());
        assert_eq!(course.unbacked_bytes(), Some((1_007, 1_007)));
    }
}
