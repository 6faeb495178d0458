//! What was measured as JSON, as a Markdown table, and as bars.

use crate::peer::Kind;
use crate::work::{METRICS, Metric};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The rounds of every figure of every engine.
pub struct Report {
    kinds: Vec<&'static Kind>,
    /// By metric, then by engine.
    rounds: Vec<Vec<Vec<f64>>>,
    pub failures: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub fn new(kinds: &[&'static Kind]) -> Report {
        let rounds = METRICS.iter().map(|_| vec![Vec::new(); kinds.len()]).collect();
        Report { kinds: kinds.to_vec(), rounds, failures: Vec::new() }
    }

    /// One more round of a figure.
    pub fn add(&mut self, kind: usize, work: &str, what: &str, value: f64) {
        if let Some(m) = METRICS.iter().position(|m| m.work == work && m.what == what) {
            self.rounds[m][kind].push(value);
        }
    }

    fn medians(&self, metric: usize) -> Vec<Option<f64>> {
        self.rounds[metric].iter().map(|r| median(r)).collect()
    }

    /// Everything.
    pub fn json(&self, about: &Value) -> Value {
        let mut works = Map::new();
        for (m, metric) in METRICS.iter().enumerate() {
            let mut peers = Map::new();
            for (kind, rounds) in self.kinds.iter().zip(&self.rounds[m]) {
                if let Some(median) = median(rounds) {
                    peers.insert(kind.name.to_string(), json!({ "median": median, "rounds": rounds }));
                }
            }
            let facts = json!({ "unit": metric.unit, "more_is_better": metric.more_is_better, "peers": peers });
            if !peers_of(&facts).is_empty() {
                works.insert(title(metric), facts);
            }
        }
        json!({ "about": about, "works": works, "failures": self.failures })
    }

    /// Works by engines; the best in bold, the floor aside.
    pub fn markdown(&self) -> String {
        let names: Vec<_> = self.kinds.iter().map(|k| k.name).collect();
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---:|".repeat(names.len()));
        for (m, metric) in METRICS.iter().enumerate() {
            let medians = self.medians(m);
            if medians.iter().all(Option::is_none) {
                continue;
            }
            let best = self.best(metric, &medians);
            let cell = |(i, value): (usize, &Option<f64>)| match value {
                None => "-".to_string(),
                Some(value) if best == Some(i) => format!("**{}**", number(*value)),
                Some(value) => number(*value),
            };
            let cells: Vec<_> = medians.iter().enumerate().map(cell).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {}, {} | {} |", title(metric), metric.unit, cells.join(" | "));
        }
        text
    }

    fn best(&self, metric: &Metric, medians: &[Option<f64>]) -> Option<usize> {
        let those = medians.iter().enumerate().filter(|(i, _)| self.kinds[*i].name != "floor");
        let values = those.filter_map(|(i, value)| value.map(|v| (i, if metric.more_is_better { -v } else { v })));
        values.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, _)| i)
    }

    /// One drawing a work: its name, and the SVG.
    pub fn drawings(&self) -> Vec<(&'static str, String)> {
        let mut works: Vec<&'static str> = METRICS.iter().map(|m| m.work).collect();
        works.dedup();
        works.into_iter().filter_map(|work| Some((work, self.drawing(work)?))).collect()
    }

    /// Bars, a field for each figure of the work. None if nobody did it.
    fn drawing(&self, work: &str) -> Option<String> {
        const LEFT: f64 = 110.0;
        const BAR: f64 = 480.0;
        let (mut body, mut top) = (String::new(), 10.0);
        for (m, metric) in METRICS.iter().enumerate().filter(|(_, m)| m.work == work) {
            let medians = self.medians(m);
            let most = medians.iter().flatten().copied().fold(0.0, f64::max);
            if most <= 0.0 {
                continue;
            }
            let better = if metric.more_is_better { "more is better" } else { "less is better" };
            let _ = writeln!(
                body,
                "<text x=\"10\" y=\"{:.0}\" font-weight=\"bold\">{}, {} ({better})</text>",
                top + 16.0,
                title(metric),
                metric.unit
            );
            top += 26.0;
            for (kind, value) in self.kinds.iter().zip(&medians).filter_map(|(k, v)| Some((k, (*v)?))) {
                let (width, colour) = ((BAR * value / most).max(1.0), colour(kind.name));
                let (name, figure, y) = (kind.name, number(value), top + 13.0);
                let _ = writeln!(
                    body,
                    "<text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"end\">{name}</text>\
                     <rect x=\"{LEFT}\" y=\"{top:.0}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{y:.0}\">{figure}</text>",
                    LEFT - 8.0,
                    LEFT + width + 6.0
                );
                top += 20.0;
            }
            top += 14.0;
        }
        let head = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"680\" height=\"{top:.0}\" viewBox=\"0 0 680 {top:.0}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        (!body.is_empty()).then(|| head + body.as_str() + "</svg>\n")
    }
}

fn peers_of(facts: &Value) -> Map<String, Value> {
    facts["peers"].as_object().cloned().unwrap_or_default()
}

fn title(metric: &Metric) -> String {
    if metric.what.is_empty() { metric.work.to_string() } else { format!("{} {}", metric.work, metric.what) }
}

fn colour(name: &str) -> &'static str {
    match name {
        "quorate" => "#1f5fa8",
        "floor" => "#b0b0b0",
        _ => "#c8855e",
    }
}

fn median(rounds: &[f64]) -> Option<f64> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

/// Three digits that count, with commas.
fn number(value: f64) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if digits > 0 {
        return text;
    }
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i > 0 && (text.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let all = [0.164, 6.3, 65.25, 99.96, 785.4, 25_400.0, 1_234_567.0].map(number);
        assert_eq!(all, ["0.16", "6.30", "65.2", "100", "785", "25,400", "1,234,567"]);
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!([median(&[]), median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])], [None, Some(2.0), Some(2.5)]);
    }
}
