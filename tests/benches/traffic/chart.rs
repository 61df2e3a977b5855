//! The measured ratios as a drawing: a panel for each measure and distance, a line for each firewall.
//!
//! Plain SVG without fonts or scripts; its colours follow the reader's choice of light or dark.

use std::fmt::Write;

/// One panel.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// What stands for 1.
    pub(crate) base: String,
    /// Ratios by number of policies, the same numbers for all.
    pub(crate) margay: Vec<f64>,
    pub(crate) ebpf: Vec<f64>,
    pub(crate) iptables: Vec<f64>,
    /// The ratio that does not depend on policies.
    pub(crate) tracking: f64,
}

const COLUMNS: usize = 2;
const HEAD: usize = 48;
const PANEL: [usize; 2] = [380, 190];
/// Of the axes in a panel: left, top, width, height.
const PLOT: [f64; 4] = [44.0, 36.0, 270.0, 118.0];
/// The largest ratio that is drawn.
const TOP: f64 = 1.5;
/// How far apart the numbers at the ends of lines are.
const APART: f64 = 12.0;

const STYLE: &str = "<style>
text { font: 12px sans-serif; fill: #1f2328 }
.back { fill: #ffffff } .title { font-weight: bold } .small { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de } .one { stroke: #57606a } path, line { fill: none; stroke-width: 1 }
.margay { stroke: #0969da; stroke-width: 2.5 } .iptables { stroke: #bc4c00; stroke-width: 2.5 }
.ebpf { stroke: #1a7f37; stroke-width: 2.5 }
.tracking { stroke: #6e7781; stroke-width: 1.5; stroke-dasharray: 5 4 }
text.of-margay { fill: #0969da } text.of-iptables { fill: #bc4c00 } text.of-ebpf { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .back { fill: #0d1117 } .small { fill: #9198a1 }
.grid { stroke: #3d444d } .one { stroke: #9198a1 }
.margay { stroke: #58a6ff } .iptables { stroke: #f0883e } .ebpf { stroke: #3fb950 } .tracking { stroke: #9198a1 }
text.of-margay { fill: #58a6ff } text.of-iptables { fill: #f0883e } text.of-ebpf { fill: #3fb950 }
}
</style>";

/// Draws panels, in rows of two, over these numbers of policies.
pub(crate) fn draw(title: &str, policies: &[usize], panels: &[Panel]) -> String {
    let [width, height] = [COLUMNS * PANEL[0], HEAD + panels.len().div_ceil(COLUMNS) * PANEL[1]];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>{title}</title>\n{STYLE}\n\
         <rect class=\"back\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    text(&mut svg, [12.0, 20.0], "title", title);
    let legend = [
        ("margay", "nftables"),
        ("ebpf", "eBPF"),
        ("iptables", "iptables and ipset"),
        ("tracking", "tracking alone"),
    ];
    for ((class, name), left) in legend.into_iter().zip([12.0, 110.0, 190.0, 350.0]) {
        line(&mut svg, class, [left, 38.0], [left + 24.0, 38.0]);
        text(&mut svg, [left + 30.0, 42.0], "small", name);
    }
    text(&mut svg, [490.0, 42.0], "small", "across: policies that select the pods");
    for (number, panel) in panels.iter().enumerate() {
        let [left, top] = [number % COLUMNS * PANEL[0], HEAD + number / COLUMNS * PANEL[1]];
        writeln!(svg, "<g transform=\"translate({left} {top})\">").unwrap();
        panel.draw(&mut svg, policies);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self, svg: &mut String, policies: &[usize]) {
        let [left, top, width, height] = PLOT;
        let y = |ratio: f64| top + height * (1.0 - ratio.min(TOP) / TOP);
        let steps = policies.len().saturating_sub(1).max(1);
        let x = |step: usize| left + width * share(step, steps);
        text(svg, [12.0, 16.0], "title", &self.title);
        text(svg, [12.0, 30.0], "small", &format!("1 = no firewall, {}", self.base));
        for (class, ratio) in [("grid", 0.0), ("grid", 0.5), ("one", 1.0)] {
            line(svg, class, [left, y(ratio)], [left + width, y(ratio)]);
            text(svg, [16.0, y(ratio) + 4.0], "small", &format!("{ratio:.1}"));
        }
        for (step, number) in policies.iter().enumerate() {
            text(svg, [x(step) - 4.0, top + height + 16.0], "small", &number.to_string());
        }
        line(svg, "tracking", [left, y(self.tracking)], [left + width, y(self.tracking)]);
        let mut lines = [("margay", &self.margay), ("ebpf", &self.ebpf), ("iptables", &self.iptables)];
        let last = |ratios: &[f64]| ratios.last().copied().unwrap_or_default();
        lines.sort_by(|one, other| last(other.1).total_cmp(&last(one.1)));
        // One label below the other where the lines end in one place.
        let mut above = f64::NEG_INFINITY;
        for (class, ratios) in lines {
            let points: Vec<String> = ratios
                .iter()
                .enumerate()
                .map(|(step, ratio)| format!("{:.1} {:.1}", x(step), y(*ratio)))
                .collect();
            writeln!(svg, "<path class=\"{class}\" d=\"M{}\"/>", points.join(" L")).unwrap();
            let at = (y(last(ratios)) + 4.0).max(above + APART);
            above = at;
            text(svg, [left + width + 8.0, at], &format!("of-{class}"), &format!("{:.2}", last(ratios)));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn share(step: usize, steps: usize) -> f64 {
    step as f64 / steps as f64
}

fn text(svg: &mut String, [x, y]: [f64; 2], class: &str, text: &str) {
    writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>").unwrap();
}

fn line(svg: &mut String, class: &str, from: [f64; 2], to: [f64; 2]) {
    let [[x1, y1], [x2, y2]] = [from, to];
    writeln!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>")
        .unwrap();
}
