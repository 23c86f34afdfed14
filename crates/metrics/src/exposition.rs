//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::Snapshot;

/// Value of the header `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, and begins at 0 with each process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// One answer to a scrape. The samples of a family stand together, as the format demands: write a family, then its
/// samples, then the next.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family: all samples until the next call belong to it.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        // Writing to a text cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One number.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.line("", labels, None, &value);
        self
    }

    /// The numbers of a histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], snapshot: &Snapshot) -> &mut Self {
        for (bound, count) in &snapshot.cumulative {
            self.line("_bucket", labels, Some(&bound.to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), &snapshot.count);
        self.line("_sum", labels, None, &snapshot.sum);
        self.line("_count", labels, None, &snapshot.count);
        self
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: &dyn Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (name, value) in labels {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.push_escaped(value);
            self.text.push('"');
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn push_escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Histogram;

    #[test]
    fn samples_follow_their_family_and_values_of_labels_are_escaped() {
        let mut exposition = Exposition::default();
        exposition
            .family(Kind::Counter, "a_total", "All of them.")
            .sample(&[], 3)
            .sample(&[("name", "a\"b\\c\nd"), ("x", "y")], 1.5);
        let wanted = "# HELP a_total All of them.\n# TYPE a_total counter\na_total 3\n\
                      a_total{name=\"a\\\"b\\\\c\\nd\",x=\"y\"} 1.5\n";
        assert_eq!(exposition.finish(), wanted);
    }

    #[test]
    fn a_histogram_ends_with_everything_its_sum_and_its_count() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        let mut exposition = Exposition::default();
        exposition
            .family(Kind::Histogram, "t_seconds", "Time.")
            .histogram(&[("r", "a")], &histogram.snapshot());
        let text = exposition.finish();
        assert!(text.contains("t_seconds_bucket{r=\"a\",le=\"0.001\"} 0\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{r=\"a\",le=\"0.0025\"} 1\n"), "{text}");
        let end = "t_seconds_bucket{r=\"a\",le=\"+Inf\"} 1\nt_seconds_sum{r=\"a\"} 0.002\nt_seconds_count{r=\"a\"} 1\n";
        assert!(text.ends_with(end), "{text}");
    }
}
