//! Draws the medians as an SVG: stacked panels with a group of bars for each system.
//!
//! The image has a background, so that it is readable on light and dark pages. It adapts its colors
//! to a dark color scheme.

use std::{fmt::Write, fs, path::Path};

use anyhow::Context;

use crate::results::Results;

/// The systems to draw, if measured.
const SYSTEMS: [&str; 8] = [
    "chain",
    "plain",
    "aes-128-gcm",
    "aes-128-cfb",
    "plain-tls",
    "tls",
    "rathole",
    "bore",
];

/// A panel of bars.
struct Panel {
    title: &'static str,
    /// The label and the value name of each bar.
    bars: &'static [(&'static str, &'static str)],
    decimals: usize,
    /// Whether the bars are ratios to the chain. Other bars are times, on a logarithmic scale.
    ratio_to_chain: bool,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Throughput, × chain (higher is better)",
        bars: &[
            ("1 connection up", "up_1_mb_s"),
            ("1 down", "down_1_mb_s"),
            ("8 connections up", "up_8_mb_s"),
            ("8 down", "down_8_mb_s"),
        ],
        decimals: 2,
        ratio_to_chain: true,
    },
    Panel {
        title: "CPU seconds per GiB, × chain (lower is better)",
        bars: &[
            ("1 connection up", "up_1_cpu_s_gib"),
            ("1 down", "down_1_cpu_s_gib"),
            ("8 connections up", "up_8_cpu_s_gib"),
            ("8 down", "down_8_cpu_s_gib"),
        ],
        decimals: 2,
        ratio_to_chain: true,
    },
    Panel {
        title: "Echo of 64 bytes on an idle tunnel, µs, logarithmic (lower is better)",
        bars: &[
            ("median", "echo_p50_us"),
            ("99th percentile", "echo_p99_us"),
        ],
        decimals: 0,
        ratio_to_chain: false,
    },
    Panel {
        title: "Echo during a bulk copy, ms, logarithmic (lower is better)",
        bars: &[
            ("median", "beside_p50_ms"),
            ("99th percentile", "beside_p99_ms"),
        ],
        decimals: 2,
        ratio_to_chain: false,
    },
];

/// Sizes in pixels. A panel has a title, a legend, the bars and the names of the systems.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const HEADING: f64 = 68.0;
const BARS: f64 = 150.0;
const ABOVE_BARS: f64 = 58.0;
const PANEL: f64 = 252.0;
/// The part of a group's width that the bars fill.
const FILLED: f64 = 0.86;

const STYLE: &str = "\
.page{fill:#ffffff}.value{stroke:#ffffff}.text{fill:#1f2328}.quiet{fill:#59636e}.line{stroke:#8b949e}.b0{fill:#0550ae}.b1{fill:#54aeff}.b2{fill:#953800}.b3{fill:#fb8f44}\
@media (prefers-color-scheme:dark){.page{fill:#0d1117}.value{stroke:#0d1117}.text{fill:#f0f6fc}.quiet{fill:#9198a1}.line{stroke:#656c76}.b0{fill:#388bfd}.b1{fill:#a5d6ff}.b2{fill:#db6d28}.b3{fill:#ffc680}}\
text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:13px}.title{font-size:15px;font-weight:600}\
.value{font-size:10px;paint-order:stroke;stroke-width:3px;stroke-linejoin:round}";

/// Writes the plot to a file.
pub(crate) fn write(results: &Results, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, render(results)?).with_context(|| format!("cannot write {}", path.display()))
}

fn render(results: &Results) -> anyhow::Result<String> {
    let systems: Vec<_> = SYSTEMS
        .into_iter()
        .filter(|system| results.find(system).is_some())
        .collect();
    let height = HEADING + PANELS.len() as f64 * PANEL + MARGIN;
    let mut svg = String::new();
    write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-labelledby=\"title description\">\n\
         <title id=\"title\">rePort, a chain of three raw TCP copiers, and other tunnels</title>\n\
         <desc id=\"description\">{}</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n",
        escaped(&description(results, &systems)),
    )?;
    label(&mut svg, "quiet", (MARGIN, 28.0), "start", &results.heading)?;
    let of_peers = "The chain copies raw TCP through three processes. rathole and bore use two processes. None of these encrypts.";
    label(&mut svg, "quiet", (MARGIN, 46.0), "start", of_peers)?;
    for (index, panel) in PANELS.iter().enumerate() {
        draw_panel(
            &mut svg,
            results,
            &systems,
            panel,
            HEADING + index as f64 * PANEL,
        )?;
    }
    svg += "</svg>\n";
    Ok(svg)
}

fn value(results: &Results, panel: &Panel, system: &str, name: &str) -> Option<f64> {
    if panel.ratio_to_chain {
        results.ratio_to_chain(system, name)
    } else {
        results.median(system, name)
    }
}

/// Returns the numbers as text, for accessibility.
fn description(results: &Results, systems: &[&str]) -> String {
    let panel = |panel: &Panel| {
        let system = |system: &&str| {
            let number = |(name, key): &(&str, &str)| {
                value(results, panel, system, key).map_or_else(String::new, |value| {
                    format!(" {name} {value:.*}", panel.decimals)
                })
            };
            format!(
                "{system}:{}",
                panel.bars.iter().map(number).collect::<Vec<_>>().join(",")
            )
        };
        format!(
            "{}: {}.",
            panel.title,
            systems.iter().map(system).collect::<Vec<_>>().join("; ")
        )
    };
    PANELS.iter().map(panel).collect::<Vec<_>>().join(" ")
}

/// Returns a function from a value to the height of its bar.
///
/// The largest value fills the panel. A logarithmic scale starts at the power of ten below the
/// smallest value.
fn heights(results: &Results, systems: &[&str], panel: &Panel) -> impl Fn(f64) -> f64 {
    let of = |system| {
        panel
            .bars
            .iter()
            .filter_map(move |(_, name)| value(results, panel, system, name))
    };
    let values: Vec<f64> = systems.iter().flat_map(|&system| of(system)).collect();
    let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let least = values
        .iter()
        .copied()
        .fold(most, f64::min)
        .max(f64::MIN_POSITIVE);
    let (is_linear, lowest) = (panel.ratio_to_chain, (least.log10() - 0.01).floor());
    move |value| {
        BARS * if is_linear {
            value / most
        } else {
            ((value.log10() - lowest) / (most.log10() - lowest)).max(0.0)
        }
    }
}

fn draw_panel(
    svg: &mut String,
    results: &Results,
    systems: &[&str],
    panel: &Panel,
    top: f64,
) -> anyhow::Result<()> {
    label(
        svg,
        "text title",
        (MARGIN, top + 14.0),
        "start",
        panel.title,
    )?;
    draw_legend(svg, panel, top + 36.0)?;
    let height_of = heights(results, systems, panel);
    let floor = top + ABOVE_BARS + BARS;
    let group = (WIDTH - 2.0 * MARGIN) / systems.len().max(1) as f64;
    let bar = group * FILLED / panel.bars.len() as f64;
    line(svg, floor, "")?;
    if panel.ratio_to_chain {
        line(svg, floor - height_of(1.0), " stroke-dasharray=\"4 4\"")?;
    }
    for (system_index, system) in systems.iter().enumerate() {
        let left = MARGIN + group * (system_index as f64 + (1.0 - FILLED) / 2.0);
        for (bar_index, (_, name)) in panel.bars.iter().enumerate() {
            let Some(value) = value(results, panel, system, name) else {
                continue;
            };
            let corner = (left + bar * bar_index as f64, floor);
            let number = format!("{value:.*}", panel.decimals);
            draw_bar(svg, bar_index, corner, (bar, height_of(value)), &number)?;
        }
        label(
            svg,
            "text",
            (MARGIN + group * (system_index as f64 + 0.5), floor + 18.0),
            "middle",
            system,
        )?;
    }
    Ok(())
}

/// Draws a bar upwards from its lower left corner, with a small gap at its right. Its value is
/// above it.
fn draw_bar(
    svg: &mut String,
    index: usize,
    (x, floor): (f64, f64),
    (pitch, height): (f64, f64),
    number: &str,
) -> anyhow::Result<()> {
    let (y, width) = (floor - height, pitch - 2.0);
    writeln!(
        svg,
        "<rect class=\"b{index}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"1\"/>"
    )?;
    label(
        svg,
        "text value",
        (x + width / 2.0, y - 4.0),
        "middle",
        number,
    )
}

fn draw_legend(svg: &mut String, panel: &Panel, baseline: f64) -> anyhow::Result<()> {
    for (index, (name, _)) in panel.bars.iter().enumerate() {
        let x = MARGIN + 150.0 * index as f64;
        writeln!(
            svg,
            "<rect class=\"b{index}\" x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\" rx=\"2\"/>",
            baseline - 10.0
        )?;
        label(svg, "quiet", (x + 17.0, baseline), "start", name)?;
    }
    Ok(())
}

fn line(svg: &mut String, y: f64, dashes: &str) -> anyhow::Result<()> {
    let right = WIDTH - MARGIN;
    writeln!(
        svg,
        "<line class=\"line\" x1=\"{MARGIN}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"{dashes}/>"
    )?;
    Ok(())
}

fn label(
    svg: &mut String,
    class: &str,
    (x, y): (f64, f64),
    anchor: &str,
    text: &str,
) -> anyhow::Result<()> {
    writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(text)
    )?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
