//! The results as an SVG: cost by record size, and latency by rate.

use std::fmt::{self, Write};

/// Panels side by side, two in a row, and the text below them.
pub(crate) struct Picture {
    /// What the picture shows, for screen readers.
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Panel>,
    pub(crate) measured_on: String,
}

/// A diagram of lines. Its x axis is logarithmic.
pub(crate) struct Panel {
    /// The title and the subtitle.
    pub(crate) titles: [String; 2],
    pub(crate) lines: Vec<Line>,
    /// A value to draw as a dashed line, and its name.
    pub(crate) rule: Option<(f64, &'static str)>,
    /// Whether the y axis is logarithmic, or linear from zero.
    pub(crate) is_log: bool,
}

/// A line through points sorted by x, with its name at its end.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) color: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 1_000.0;
/// The height of a row of panels.
const ROW_HEIGHT: f64 = 400.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 360.0;
/// The first and the last x of the panels of a row.
const COLUMNS: [(f64, f64); 2] = [(60.0, 380.0), (560.0, 880.0)];
/// The line height of text, except titles.
const LINE_HEIGHT: f64 = 15.0;
/// Attributes that keep text readable over lines.
const HALO: &str = "stroke=\"#fff\" stroke-width=\"3\" paint-order=\"stroke\"";
/// The maximum number of ticks of an x axis.
const TICKS_MAX: usize = 6;
/// The ticks of a logarithmic axis, per power of ten.
const LOG_TICKS: [f64; 2] = [1.0, 3.0];

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.panels.len().div_ceil(COLUMNS.len());
        let height = rows as f64 * ROW_HEIGHT + 40.0;
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <title>{}</title>\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>",
            self.title
        )?;
        for (place, panel) in self.panels.iter().enumerate() {
            panel.draw(f, place)?;
        }
        text(f, (20.0, height - 22.0), "start", "fill=\"#666\" font-size=\"11\"", &self.measured_on)?;
        writeln!(f, "</svg>")
    }
}

impl Panel {
    fn values(&self, value: impl Fn(&(f64, f64)) -> f64) -> impl Iterator<Item = f64> {
        self.lines.iter().flat_map(|line| &line.points).map(value)
    }

    fn draw(&self, f: &mut fmt::Formatter<'_>, place: usize) -> fmt::Result {
        let (left, right) = COLUMNS[place % COLUMNS.len()];
        let above = (place / COLUMNS.len()) as f64 * ROW_HEIGHT;
        let (top, bottom) = (TOP + above, BOTTOM + above);
        let x = Axis::within(self.values(|point| point.0), left, right);
        let y = if self.is_log {
            Axis::around(self.values(|point| point.1), bottom, top)
        } else {
            let rule = self.rule.map_or(0.0, |rule| rule.0);
            Axis::linear(self.values(|point| point.1).fold(rule, f64::max), bottom, top)
        };
        text(f, (left - 40.0, above + 26.0), "start", "font-size=\"15\" font-weight=\"bold\"", &self.titles[0])?;
        text(f, (left - 40.0, above + 44.0), "start", "fill=\"#666\"", &self.titles[1])?;
        for tick in y.ticks() {
            let at = y.place(tick);
            stroke(f, &[(left, at), (right, at)], "stroke=\"#e4e4e4\"")?;
            text(f, (left - 8.0, at + 4.0), "end", "fill=\"#666\"", &number(tick))?;
        }
        for tick in x.few_ticks() {
            let at = x.place(tick);
            stroke(f, &[(at, bottom), (at, bottom + 5.0)], "stroke=\"#888\"")?;
            text(f, (at, bottom + 20.0), "middle", "fill=\"#666\"", &number(tick))?;
        }
        stroke(f, &[(left, bottom), (right, bottom)], "stroke=\"#888\"")?;
        if let Some((height, name)) = self.rule {
            let at = y.place(height);
            stroke(f, &[(left, at), (right, at)], "stroke=\"#888\" stroke-dasharray=\"5 4\"")?;
            text(f, (left + 4.0, at - 5.0), "start", &format!("fill=\"#666\" font-size=\"11\" {HALO}"), name)?;
        }
        let mut labels = Vec::new();
        for Line { name, color, points } in &self.lines {
            let points: Vec<_> = points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
            stroke(f, &points, &format!("stroke=\"{color}\" stroke-width=\"2\" stroke-linejoin=\"round\""))?;
            for (x, y) in &points {
                writeln!(f, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{color}\"/>")?;
            }
            labels.extend(points.last().map(|end| (*end, name, color)));
        }
        // From the top: each at the end of its line, or below the previous one.
        labels.sort_by(|a, b| a.0.1.total_cmp(&b.0.1));
        let mut next_free = f64::MIN;
        for ((x, y), name, color) in labels {
            let at = next_free.max(y);
            next_free = at + LINE_HEIGHT;
            text(f, (x + 8.0, at + 4.0), "start", &format!("fill=\"{color}\" {HALO}"), name)?;
        }
        Ok(())
    }
}

/// An axis: maps values in `from..=to` to coordinates in `start..=end`.
struct Axis {
    is_log: bool,
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    /// Returns a logarithmic axis from the minimum to the maximum.
    fn within(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let (from, to) = values.fold((f64::MAX, 0.0), |(min, max), value| (value.min(min), value.max(max)));
        Self { is_log: true, from, to, start, end }
    }

    /// Returns a logarithmic axis from the tick at or below the minimum to the tick at or above the maximum.
    fn around(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Self {
        let Self { from: min, to: max, .. } = Self::within(values, start, end);
        let from = decade_multiples(&LOG_TICKS).take_while(|tick| *tick <= min).last().unwrap_or(1.0);
        let to = decade_multiples(&LOG_TICKS).find(|tick| *tick >= max && *tick > from).unwrap_or(10.0 * from);
        Self { is_log: true, from, to, start, end }
    }

    /// Returns a linear axis from zero to the tick at or above the maximum.
    fn linear(max: f64, start: f64, end: f64) -> Self {
        let step = step(max);
        Self { is_log: false, from: 0.0, to: (max / step).ceil() * step, start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_log { value.log10() } else { value };
        self.start + (scale(value) - scale(self.from)) / (scale(self.to) - scale(self.from)) * (self.end - self.start)
    }

    /// Returns the powers of ten if there are many ticks, so that their labels do not overlap.
    fn few_ticks(&self) -> Vec<f64> {
        let ticks = self.ticks();
        if ticks.len() <= TICKS_MAX {
            return ticks;
        }
        decade_multiples(&LOG_TICKS[..1]).filter(|tick| ticks.contains(tick)).collect()
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            return decade_multiples(&LOG_TICKS).filter(|tick| (self.from..=self.to).contains(tick)).collect();
        }
        let step = step(self.to);
        (0..=(self.to / step).round() as u32).map(|n| f64::from(n) * step).collect()
    }
}

/// Returns the products of these factors with each power of ten, from 0.001.
fn decade_multiples(factors: &[f64]) -> impl Iterator<Item = f64> {
    let product = |exponent: i32, factor: f64| match exponent {
        // A product with 0.1 would not be exact.
        ..0 => factor / 10_f64.powi(-exponent),
        _ => factor * 10_f64.powi(exponent),
    };
    (-3..10).flat_map(move |exponent| factors.iter().map(move |factor| product(exponent, *factor)))
}

/// Returns the distance of the ticks of a linear axis, which has at most six steps.
fn step(max: f64) -> f64 {
    decade_multiples(&[1.0, 2.0, 5.0]).find(|step| max / step <= 6.0).unwrap_or(max)
}

/// Formats a number with commas between thousands.
fn number(value: f64) -> String {
    if value < 1_000.0 {
        return value.to_string();
    }
    let thousands = (value / 1_000.0).floor();
    format!("{},{:03}", number(thousands), value as u64 % 1_000)
}

fn stroke(f: &mut impl Write, points: &[(f64, f64)], style: &str) -> fmt::Result {
    write!(f, "<polyline fill=\"none\" {style} points=\"")?;
    for (i, (x, y)) in points.iter().enumerate() {
        write!(f, "{}{x:.1},{y:.1}", if i == 0 { "" } else { " " })?;
    }
    writeln!(f, "\"/>")
}

fn text(f: &mut impl Write, at: (f64, f64), anchor: &str, style: &str, text: &str) -> fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(f, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>", at.0, at.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.into(), color: "#000", points: points.into() };
        let cost = vec![
            line("AWS SDK <alone>", &[(30.0, 1.1), (30_000.0, 62.0)]),
            line("kpl-tokio", &[(30.0, 0.6), (30_000.0, 60.0)]),
            line("floor", &[(30.0, 0.3), (30_000.0, 59.0)]),
        ];
        let latency = vec![line("p99", &[(1e3, 121.0), (4e5, 42.0)]), line("p50", &[(1e3, 80.0), (4e5, 41.0)])];
        let titles = || ["a title".to_owned(), "a subtitle".to_owned()];
        Picture {
            title: "a picture",
            panels: vec![
                Panel { titles: titles(), lines: cost, rule: None, is_log: true },
                Panel {
                    titles: titles(),
                    lines: latency,
                    rule: Some((100.0, "record_max_buffered_time")),
                    is_log: false,
                },
                Panel {
                    titles: titles(),
                    lines: vec![line("below", &[(1.0, 1.0), (9.0, 2.0)])],
                    rule: None,
                    is_log: true,
                },
            ],
            measured_on: "2 cores".into(),
        }
    }

    #[test]
    fn every_tag_is_closed_and_no_resource_is_external() {
        let svg = picture().to_string();
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap();
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name)),
                (false, true) => {}
                (false, false) => open.push(name),
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        }
        assert_eq!(open, [""; 0]);
        assert_eq!(svg.matches("http").count(), 1, "only the namespace is a URL");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg, picture().to_string());
    }

    #[test]
    fn lines_ticks_and_the_rule_have_labels() {
        let svg = picture().to_string();
        for label in [
            "kpl-tokio",
            "AWS SDK &lt;alone>",
            "floor",
            "below",
            "p50",
            "p99",
            "record_max_buffered_time",
            "30,000",
            "2 cores",
        ] {
            assert!(svg.contains(&format!(">{label}</text>")), "{label}");
        }
    }

    #[test]
    fn names_of_lines_do_not_overlap() {
        let svg = picture().to_string();
        let height = |name: &str| -> f64 {
            let line = svg.lines().find(|line| line.ends_with(&format!(">{name}</text>"))).unwrap();
            line.split_once(" y=\"").unwrap().1.split_once('"').unwrap().0.parse().unwrap()
        };
        assert!(height("kpl-tokio") - height("AWS SDK &lt;alone>") >= LINE_HEIGHT);
        assert!(height("floor") - height("kpl-tokio") >= LINE_HEIGHT);
    }

    #[test]
    fn axes_end_at_ticks_and_contain_all_values() {
        let log = Axis::around([0.31, 62.0].into_iter(), 0.0, 1.0);
        assert_eq!(log.ticks(), [0.3, 1.0, 3.0, 10.0, 30.0, 100.0]);
        let linear = Axis::linear(121.0, 0.0, 140.0);
        assert_eq!(linear.ticks(), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(linear.place(75.0), 70.0);
        let wide = Axis::within([10.0, 1e6].into_iter(), 0.0, 1.0);
        assert_eq!(wide.few_ticks(), [10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
        assert_eq!(
            [0.3, 300.0, 1_000.0, 30_000.0, 1_002_003.0].map(number),
            ["0.3", "300", "1,000", "30,000", "1,002,003"]
        );
    }
}
