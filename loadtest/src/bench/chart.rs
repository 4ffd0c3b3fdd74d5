//! The run as a picture: how fast each kind of backlog is drained beside what limits it. SVG that
//! needs nothing from elsewhere and follows the reader's light or dark scheme.

use std::fmt::Write;

use super::ledger::Ledger;
use super::summary::number;

const RATE: &str = "events_per_second";
const MODES: [&str; 4] = ["history-user", "history-delta", "batch-user", "batch-delta"];
const SERIES: [(&str, &str, &str); 3] = [
    ("drain", "like-aggregator", "a"),
    ("from-memory", "the same SQL fed from memory", "b"),
    ("consume", "consuming and parsing alone", "c"),
];
const LEFT: f64 = 130.0;
const WIDTH: f64 = 760.0;
const BAR: f64 = 17.0;

/// The chart; None where the drains weren't measured.
pub fn drains(ledger: &Ledger) -> Option<String> {
    let rate = |series: &str, mode: &str| ledger.median(&format!("{series}/{mode}"), RATE);
    // Far beyond everything else is the SQL that has next to nothing to do: such a bar is cut.
    let most = MODES.iter().flat_map(|mode| ["drain", "consume"].map(|series| rate(series, mode)));
    let most = most.flatten().reduce(f64::max)? * 1.1;
    let scale = (WIDTH - LEFT - 90.0) / most;
    let group = BAR * SERIES.len() as f64 + 16.0;
    let height = 64.0 + group * MODES.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title>Events a second: like-aggregator beside what limits it</title>\n<style>\n\
         text{{fill:#1f2328}} .a{{fill:#cf3d5e}} .b{{fill:#8aa0b5}} .c{{fill:#c9d3dc}} .n{{font-size:11px}}\n\
         @media (prefers-color-scheme:dark){{text{{fill:#e6edf3}} .b{{fill:#6c8298}} .c{{fill:#3f4f5e}}}}\n</style>\n\
         <text x=\"0\" y=\"16\" font-weight=\"600\">Events a second, one worker, two cores</text>\n"
    );
    let mut x = 0.0;
    for (_, label, class) in SERIES {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.0}\" y=\"28\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"{:.0}\" y=\"39\">{label}</text>",
            x + 18.0
        );
        x += 40.0 + label.len() as f64 * 7.4;
    }
    for (place, mode) in (0_u32..).zip(MODES) {
        let top = 58.0 + group * f64::from(place);
        let _ = writeln!(svg, "<text x=\"0\" y=\"{:.0}\">{mode}</text>", top + BAR * 1.9);
        for (row, (series, _, class)) in (0_u32..).zip(SERIES) {
            let Some(rate) = rate(series, mode) else { continue };
            let y = top + BAR * f64::from(row);
            let width = rate.min(most) * scale;
            let cut = if rate > most { "» " } else { "" };
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"/>\
                 <text class=\"n\" x=\"{:.1}\" y=\"{:.1}\">{cut}{}</text>",
                BAR - 3.0,
                LEFT + width + 6.0,
                y + BAR - 6.0,
                number(rate)
            );
        }
    }
    svg.push_str("</svg>\n");
    Some(svg)
}
