//! Lines over time as an SVG: plots below each other, with axes, grid lines and a legend. Nothing but what a report needs.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
/// Of one plot, with its title and its axis.
const HEIGHT: f64 = 260.0;
/// Left, right, above and below of the field with the lines.
const MARGINS: [f64; 4] = [70.0, 210.0, 34.0, 36.0];
const COLOURS: [&str; 6] = ["#1f5fa8", "#c8501e", "#2e8b57", "#7a3e9d", "#b8860b", "#555555"];
/// Grid lines of an axis, about.
const TICKS: f64 = 5.0;

/// One line.
pub struct Line {
    pub name: &'static str,
    /// One value for each time; what is not finite is left out.
    pub values: Vec<f64>,
    pub dashed: bool,
}

pub struct Plot {
    pub title: &'static str,
    pub lines: Vec<Line>,
}

/// The plots over the same times, in seconds.
pub fn render(title: &str, times: &[f64], plots: &[Plot]) -> String {
    let height = HEIGHT * plots.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, MARGINS[0], 20.0, "start", title);
    for (i, plot) in plots.iter().enumerate() {
        one(&mut svg, 30.0 + HEIGHT * i as f64, times, plot);
    }
    svg + "</svg>\n"
}

fn one(svg: &mut String, top: f64, times: &[f64], plot: &Plot) {
    let [left, right, above, below] = MARGINS;
    let (width, height) = (WIDTH - left - right, HEIGHT - above - below);
    let of = |all: &[f64]| all.iter().copied().filter(|v| v.is_finite()).fold(0.0, f64::max);
    let (last, most) = (of(times), plot.lines.iter().map(|l| of(&l.values)).fold(0.0, f64::max));
    let (across, up) = (step(last), step(most));
    // The vertical axis ends with a grid line, the other one with what was measured.
    let most = up * (most / up).ceil().max(1.0);
    let last = if last > 0.0 { last } else { 1.0 };
    let x = |time: f64| left + width * time / last;
    let y = |value: f64| top + above + height * (1.0 - value / most);
    text(svg, left, top + above - 10.0, "start", plot.title);
    for value in ticks(up, most) {
        rule(svg, (x(0.0), y(value)), (x(last), y(value)));
        text(svg, left - 6.0, y(value) + 4.0, "end", &label(value, up));
    }
    for time in ticks(across, last) {
        rule(svg, (x(time), y(0.0)), (x(time), y(most)));
        text(svg, x(time), y(0.0) + 16.0, "middle", &format!("{} s", label(time, across)));
    }
    for (i, line) in plot.lines.iter().enumerate() {
        let (colour, dashes) = (COLOURS[i % COLOURS.len()], if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" });
        let mut points = String::new();
        for (time, value) in times.iter().zip(&line.values).filter(|(_, v)| v.is_finite()) {
            // Writing to a string cannot fail.
            let _ = write!(points, "{:.1},{:.1} ", x(*time), y(*value));
        }
        let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{dashes}");
        let _ = writeln!(svg, "<polyline {style} points=\"{}\"/>", points.trim_end());
        let (from, at) = (WIDTH - right + 14.0, top + above + 8.0 + 18.0 * i as f64);
        let _ = writeln!(svg, "<polyline {style} points=\"{from},{at} {},{at}\"/>", from + 24.0);
        text(svg, from + 30.0, at + 4.0, "start", line.name);
    }
}

/// Between two grid lines: 1, 2 or 5 times a power of ten.
fn step(most: f64) -> f64 {
    let rough = if most > 0.0 { most / TICKS } else { 1.0 };
    let ten = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].map(|n| n * ten).into_iter().find(|s| *s >= rough).unwrap_or(10.0 * ten)
}

fn ticks(step: f64, most: f64) -> impl Iterator<Item = f64> {
    (0..=(most / step + 1e-6) as u32).map(move |n| f64::from(n) * step)
}

/// As many digits as the step needs.
fn label(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((a, b), (c, d)) = (from, to);
    let _ = writeln!(svg, "<path d=\"M{a:.1} {b:.1}L{c:.1} {d:.1}\" stroke=\"#dddddd\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_lines_are_round_and_few() {
        for (most, want) in [(0.0, 1.0), (1.0, 0.2), (5.0, 1.0), (7.0, 2.0), (191.0, 50.0), (0.013, 0.005)] {
            assert!((step(most) - want).abs() < want * 1e-9, "{most}: {}", step(most));
        }
        let labels: Vec<String> = ticks(0.5, 2.0).map(|v| label(v, 0.5)).collect();
        assert_eq!(labels, ["0.0", "0.5", "1.0", "1.5", "2.0"]);
        assert_eq!(label(150.0, 50.0), "150");
    }

    #[test]
    fn points_lie_where_their_values_are() {
        let line = |name, values: &[f64]| Line { name, values: values.to_vec(), dashed: name == "b" };
        let plots = [
            Plot { title: "one & <two>", lines: vec![line("a", &[0.0, 5.0, f64::NAN, 10.0])] },
            Plot { title: "flat", lines: vec![line("b", &[0.0; 4])] },
        ];
        let svg = render("title", &[0.0, 1.0, 2.0, 4.0], &plots);
        // 620 wide from 70 on; 190 high, of which the lowest is 30 + 34 + 190.
        assert!(svg.contains("points=\"70.0,254.0 225.0,159.0 690.0,64.0\""), "{svg}");
        assert!(svg.contains("points=\"70.0,514.0 225.0,514.0 380.0,514.0 690.0,514.0\""), "{svg}");
        assert!(svg.contains("one &amp; &lt;two>") && svg.matches("dasharray").count() == 2, "{svg}");
        // What is opened is closed.
        let count = |what: &str| svg.matches(what).count();
        assert_eq!((count("<svg"), count("<text")), (count("</svg>"), count("</text>")));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        render("nothing", &[], &plots);
    }
}
